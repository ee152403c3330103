// Server-sent events from bytes as they come: pieces may end anywhere, within a character or a line break.

/**
 * The data of each event; comments, which keep a silent stream open, are passed over.
 * @param {ReadableStream<Uint8Array>} body closed when the reader stops early
 */
export async function* eventsOf(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  const splitter = new LineSplitter();
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      for (const line of splitter.push(decoder.decode(value, { stream: true }))) {
        if (line === "" && data.length > 0) yield data.join("\n");
        if (line === "") data = [];
        else data.push(...dataOf(line));
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // it may have failed already, which whoever reads has been told
  }
}

function dataOf(line) {
  const [, name, value] = /^([^:]*)(?:: ?([^]*))?$/.exec(line);
  return name === "data" ? [value ?? ""] : [];
}

/** Lines end in LF, CR or CRLF; a CRLF may come in two halves. */
class LineSplitter {
  #rest = "";
  #endedInCr = false;

  push(text) {
    const fresh = this.#endedInCr && text.startsWith("\n") ? text.slice(1) : text;
    if (text !== "") this.#endedInCr = text.endsWith("\r");
    const lines = (this.#rest + fresh).split(/\r\n|\n|\r/);
    this.#rest = lines.pop();
    return lines;
  }
}
