// One way to make a node. Text stays text: nothing here, or anywhere on this page, reads markup from a string.

/**
 * @param {string} tag
 * @param {Object} properties attributes; `on…` are listeners, `false` and `null` leave one out
 * @param {...(Node|string|null|false)} children
 */
export function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const child of children) if (child !== null && child !== false) node.append(child);
  // After the children: a node that has dir="auto" already looks at all of them again for each that comes.
  for (const [name, value] of Object.entries(properties)) setProperty(node, name, value);
  return node;
}

/** A button that says what it does; `describe` is for screen readers where one word is not enough. */
export function button(label, onclick, { kind = "quiet", describe = null, ...rest } = {}) {
  return element("button", { type: "button", class: kind, "aria-label": describe, onclick, ...rest }, label);
}

export const byId = (id) => document.getElementById(id);

function setProperty(node, name, value) {
  if (value === false || value === null || value === undefined) return;
  if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
  else node.setAttribute(name, value === true ? "" : value);
}
