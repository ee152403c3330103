// The key to the API: for this tab, or on this device if asked to. It is sent to the server the page came from only.

const NAME = "lmoe.key";

export const readKey = () => sessionStorage.getItem(NAME) ?? localStorage.getItem(NAME) ?? "";

export function keepKey(key, onThisDevice) {
  forgetKey();
  if (key !== "") (onThisDevice ? localStorage : sessionStorage).setItem(NAME, key);
}

export function forgetKey() {
  sessionStorage.removeItem(NAME);
  localStorage.removeItem(NAME);
}
