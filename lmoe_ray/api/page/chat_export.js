// A chat as a file: JSON with everything that was measured, or Markdown to read.

import { nameOf } from "./chat.js";
import { element } from "./element.js";

export const asJson = (chat) => JSON.stringify({ format: "lmoe-chat-1", ...chat }, null, 2);

export function asMarkdown(chat) {
  const turns = chat.turns.flatMap(({ question, answers }) => [
    `## Question\n\n${question}`,
    ...answers.map((answer) => `### ${headingOf(answer)}\n\n${answer.text || "(no text)"}`),
  ]);
  return `${[`# ${chat.title}`, ...turns].join("\n\n")}\n`;
}

function headingOf(answer) {
  const how = answer.routedBy === "explicit" ? "chosen by hand" : `${Math.round(answer.confidence * 100)} % sure`;
  return answer.routedBy === "" ? "No answer" : `${nameOf(answer)} (${how})`;
}

/** Hand `text` to the browser as a download. */
export function download(name, type, text) {
  const href = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 10_000);
}

/** A name every file system takes. */
export function fileName(chat, suffix) {
  const words = chat.title.match(/[\p{L}\p{N}]+/gu) ?? ["chat"];
  return `${words.join("-").slice(0, 40)}.${suffix}`;
}
