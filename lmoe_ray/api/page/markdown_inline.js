// Markdown, second half: the text of a block becomes nodes. One pass; whatever is not closed stays the text it was.

import { element } from "./element.js";

const TOKEN = /\\([!-/:-@[-`{-~])|(`+)|!?\[|(\*+|_+|~~)|https?:\/\/[^\s<>"`]{1,2000}|\n/g;
/** `[label](address "title")`, with bounds, so that a wall of brackets costs no more than its length. */
const LABEL = /!?\[([^[\]\n]{0,500})\]/;
const ADDRESS = /<?([^\s()<>]{0,2000}(?:\([^\s()<>]{0,500}\)[^\s()<>]{0,500})?)>?/;
const LINK = new RegExp(`${LABEL.source}\\( {0,4}${ADDRESS.source}(?: {1,4}"[^"\\n]{0,200}")? {0,4}\\)`, "y");
const TAGS = { "*": "em", "_": "em", "**": "strong", "__": "strong", "~~": "del" };
const SCHEMES = ["http:", "https:", "mailto:"];
/** Characters that turn the direction of what follows: shown by number, so that nothing reads other than it is. */
const TURNING = /[\u202a-\u202e\u2066-\u2069]/g;

/** @returns {DocumentFragment} */
export function inlineNodes(text, areLinksAllowed = true) {
  return new InlineReader(text, areLinksAllowed).read();
}

/** Text as it may be shown: see TURNING. */
export const plainText = (text) =>
  text.replace(TURNING, (c) => `[U+${c.codePointAt(0).toString(16).toUpperCase()}]`);

class InlineReader {
  #text;
  #areLinksAllowed;
  #backticks = null;
  /** What is open: the fragment itself, then emphasis, innermost last; each marker at most once. */
  #open = [{ marker: "", node: document.createDocumentFragment() }];

  constructor(text, areLinksAllowed) {
    this.#text = text;
    this.#areLinksAllowed = areLinksAllowed;
  }

  read() {
    let at = 0;
    for (TOKEN.lastIndex = 0; ; TOKEN.lastIndex = at) {
      const token = TOKEN.exec(this.#text);
      if (token === null) break;
      this.#say(this.#text.slice(at, token.index));
      at = this.#take(token);
    }
    this.#say(this.#text.slice(at));
    while (this.#open.length > 1) this.#giveUp();
    return this.#open[0].node;
  }

  /** @returns {number} where to read on */
  #take(token) {
    const { index, 0: whole, 1: escaped, 2: backticks, 3: marks } = token;
    const end = index + whole.length;
    if (escaped) this.#say(escaped);
    else if (whole === "\n") this.#add(element("br"));
    else if (backticks) return this.#code(index, backticks.length);
    else if (marks) this.#emphasis(index, marks);
    else if (whole.endsWith("[")) return this.#link(index, whole);
    else return this.#address(index, whole);
    return end;
  }

  #code(index, length) {
    const start = index + length;
    const close = this.#closingBackticks(start, length);
    if (close === undefined) {
      this.#say("`".repeat(length));
      return start;
    }
    const inner = this.#text.slice(start, close).replaceAll("\n", " ");
    this.#add(element("code", { dir: "ltr" }, plainText(isPadded(inner) ? inner.slice(1, -1) : inner)));
    return close + length;
  }

  /** The next run of as many backticks; all runs are found once, because most of a wall of them never match. */
  #closingBackticks(from, length) {
    this.#backticks ??= Map.groupBy([...this.#text.matchAll(/`+/g)].reverse(), (run) => run[0].length);
    const runs = this.#backticks.get(length) ?? []; // the first is last, where taking it away costs nothing
    while (runs.at(-1)?.index < from) runs.pop();
    return runs.at(-1)?.index;
  }

  #emphasis(index, marks) {
    const before = this.#text[index - 1] ?? " ";
    const after = this.#text[index + marks.length] ?? " ";
    const isWordInside = marks[0] === "_" && /\w/.test(before) && /\w/.test(after);
    const canOpen = !/\s/.test(after) && !isWordInside;
    const canClose = !/\s/.test(before) && !isWordInside;
    if (marks.length > 3 && marks !== "~~") this.#say(marks);
    else for (const marker of this.#markersIn(marks, canClose)) this.#mark(marker, canOpen, canClose);
  }

  /** Three marks are strong and emphasis, in whichever order closes what is open. */
  #markersIn(marks, canClose) {
    if (marks.length < 3) return [marks];
    const single = marks[0];
    return canClose && this.#open.at(-1).marker === single ? [single, single + single] : [single + single, single];
  }

  #mark(marker, canOpen, canClose) {
    const isOpen = this.#open.some((frame) => frame.marker === marker);
    if (isOpen && canClose) this.#close(marker);
    else if (!isOpen && canOpen) this.#open.push({ marker, node: element(TAGS[marker]) });
    else this.#say(marker);
  }

  #close(marker) {
    while (this.#open.at(-1).marker !== marker) this.#giveUp();
    const { node } = this.#open.pop();
    this.#add(node);
  }

  /** Emphasis that nothing closes was text. */
  #giveUp() {
    const { marker, node } = this.#open.pop();
    this.#say(marker);
    while (node.firstChild) this.#add(node.firstChild);
  }

  #link(index, opening) {
    LINK.lastIndex = index;
    const match = this.#areLinksAllowed ? LINK.exec(this.#text) : null;
    const href = match && safeHref(match[2]);
    if (!href) {
      this.#say(match ? match[0] : opening);
      return index + (match ? match[0] : opening).length;
    }
    this.#add(anchor(href, inlineNodes(match[1] || href, false)));
    return index + match[0].length;
  }

  #address(index, whole) {
    const address = whole.replace(/[.,:;!?*_~'\]]+$/, "").replace(whole.includes("(") ? /$/ : /\)+[.,:;!?]*$/, "");
    const href = this.#areLinksAllowed && safeHref(address);
    if (href) this.#add(anchor(href, plainText(address)));
    else this.#say(address);
    return index + address.length;
  }

  #say(text) {
    if (text !== "") this.#add(plainText(text));
  }

  #add(node) {
    this.#open.at(-1).node.append(node);
  }
}

/** One space on each side is there to keep backticks apart, and is not shown. */
const isPadded = (code) => code.startsWith(" ") && code.endsWith(" ") && code.trim() !== "";

/** The address if it may be followed: read by the browser's own rules, so that no disguise of a scheme gets by. */
export function safeHref(address) {
  if (!URL.canParse(address)) return null;
  const url = new URL(address);
  return SCHEMES.includes(url.protocol) ? url.href : null;
}

/** The address is told on hover, because a label may claim another. An image is a link too: nothing loads unasked. */
const anchor = (href, label) =>
  element("a", { href, title: href, target: "_blank", rel: "noopener noreferrer" }, label);
