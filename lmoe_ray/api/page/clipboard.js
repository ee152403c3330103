// Copying, also where the page is not served from a secure address and the newer interface is missing.

import { announce } from "./notices.js";

/** Copy `text`, and say so on the button for a moment. */
export async function copyText(text, button) {
  const isCopied = await written(text);
  const label = button.textContent;
  button.textContent = isCopied ? "Copied" : "Not copied";
  button.disabled = true;
  announce(button.textContent);
  setTimeout(() => {
    button.textContent = label;
    button.disabled = false;
  }, 1200);
}

async function written(text) {
  if (!navigator.clipboard) return selected(text);
  return navigator.clipboard.writeText(text).then(() => true, () => selected(text));
}

function selected(text) {
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "unseen";
  document.body.append(field);
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  return isCopied;
}
