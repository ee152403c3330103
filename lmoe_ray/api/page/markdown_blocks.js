// Markdown, first half: lines become blocks, as data. Each rule looks at a line once, so time grows with the length.
//
// Left out on purpose: HTML, which stays text; code by indentation and headings by underlining, which models
// write by accident more often than by intent.

/** Quotes and lists within each other; what lies deeper is a paragraph, so nobody runs out of stack. */
const MAX_DEPTH = 6;

const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?=\s|$)/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])( +|$)/;

/**
 * @param {string} text
 * @returns {Array<Object>} blocks in order, each with its `kind` and the offset in `text` where it `end`s
 */
export function blocksOf(text, depth = 0) {
  const reader = new LineReader(text);
  const blocks = [];
  while (!reader.isAtEnd) {
    if (isBlank(reader.line)) reader.next();
    else blocks.push({ ...readBlock(reader, depth), end: reader.offset });
  }
  return blocks;
}

class LineReader {
  #lines;
  #at = 0;
  offset = 0;

  constructor(text) {
    this.#lines = text.split("\n");
  }

  get isAtEnd() {
    return this.#at >= this.#lines.length;
  }

  get line() {
    return untabbed(this.#lines[this.#at] ?? "");
  }

  /** The line after this one; empty at the end. */
  get following() {
    return untabbed(this.#lines[this.#at + 1] ?? "");
  }

  next() {
    const line = this.line;
    this.offset += this.#lines[this.#at].length + 1;
    this.#at += 1;
    return line;
  }
}

function readBlock(reader, depth) {
  const { line } = reader;
  if (FENCE.test(line)) return readFence(reader);
  if (HEADING.test(line)) return readHeading(reader.next());
  if (RULE.test(line)) return reader.next() && { kind: "rule" };
  if (startsTable(line, reader.following)) return readTable(reader);
  if (depth < MAX_DEPTH && QUOTE.test(line)) return readQuote(reader, depth);
  if (depth < MAX_DEPTH && ITEM.test(line)) return readList(reader, depth);
  return readParagraph(reader);
}

/** Without a closing fence, code goes on to the end: more of it is on its way. */
function readFence(reader) {
  const [, marks, info] = FENCE.exec(reader.next());
  const lines = [];
  while (!reader.isAtEnd) {
    const line = reader.next();
    const closing = line.trim();
    if (closing.length >= marks.length && closing === marks[0].repeat(closing.length)) break;
    lines.push(line);
  }
  return { kind: "code", language: info.trim().split(/\s/, 1)[0], text: lines.join("\n") };
}

function readHeading(line) {
  const [marks, { length: level }] = HEADING.exec(line);
  return { kind: "heading", level, text: line.slice(marks.length).trim().replace(/(^| )#+$/, "") };
}

function readQuote(reader, depth) {
  const lines = [];
  while (QUOTE.test(reader.line)) lines.push(reader.next().replace(QUOTE, ""));
  return { kind: "quote", blocks: blocksOf(lines.join("\n"), depth + 1) };
}

function readList(reader, depth) {
  const [, indent, marker] = ITEM.exec(reader.line);
  const isOrdered = /\d/.test(marker);
  const items = [];
  while (isSibling(reader.line, indent.length, isOrdered)) items.push(readItem(reader, indent.length, depth));
  return { kind: "list", isOrdered, start: Number.parseInt(marker, 10), items };
}

function isSibling(line, indent, isOrdered) {
  const match = ITEM.exec(line);
  return match !== null && !RULE.test(line) && match[1].length < indent + 2 && /\d/.test(match[2]) === isOrdered;
}

function readItem(reader, indent, depth) {
  const [lead, , marker, gap] = ITEM.exec(reader.line);
  const width = lead.length - gap.length + 1;
  const lines = [reader.next().slice(lead.length)];
  while (!reader.isAtEnd && goesOn(reader, indent)) lines.push(dedented(reader.next(), Math.max(width, marker.length)));
  return blocksOf(lines.join("\n"), depth + 1);
}

/** Deeper lines belong to an item, also after one blank line; so does a line that merely wraps. */
function goesOn(reader, indent) {
  const { line, following } = reader;
  if (isBlank(line)) return indentOf(following) >= indent + 2;
  return indentOf(line) >= indent + 2 || !startsBlock(line);
}

function readTable(reader) {
  const head = cellsOf(reader.next());
  const alignments = cellsOf(reader.next()).map(alignmentOf);
  const rows = [];
  while (reader.line.includes("|")) rows.push(cellsOf(reader.next()));
  return { kind: "table", head, alignments, rows };
}

function startsTable(line, following) {
  if (!line.includes("|") || !following.includes("-")) return false;
  const rulers = cellsOf(following);
  return rulers.length === cellsOf(line).length && rulers.every((cell) => /^:?-+:?$/.test(cell));
}

const alignmentOf = (cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "end") : "start");

function cellsOf(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function readParagraph(reader) {
  const lines = [reader.next().trim()];
  while (!isBlank(reader.line) && !startsBlock(reader.line)) lines.push(reader.next().trim());
  return { kind: "paragraph", text: lines.join("\n") };
}

const startsBlock = (line) => [FENCE, HEADING, RULE, QUOTE, ITEM].some((start) => start.test(line));
const isBlank = (line) => line.trim() === "";
const indentOf = (line) => line.length - line.trimStart().length;
const dedented = (line, most) => line.slice(Math.min(indentOf(line), most));

/** Without the CR of a CRLF, and with four spaces for each leading tab. */
function untabbed(line) {
  const whole = line.endsWith("\r") ? line.slice(0, -1) : line;
  return whole.replace(/^[ \t]+/, (lead) => lead.replaceAll("\t", "    "));
}
