// The API this page came with: every request it makes, and every way one can fail as a ServerError.

import { readKey } from "./api_key.js";
import { eventsOf } from "./event_stream.js";

const API = new URL("../v1/", import.meta.url);

/** What went wrong, for people. `status` is 0 where no answer came; `retryAfterS` is the server's wish. */
export class ServerError extends Error {
  constructor(message, { status = 0, code = "", retryAfterS = null } = {}) {
    super(message);
    Object.assign(this, { status, code, retryAfterS });
  }
}

/** Names a request may put into `model`. */
export const listModels = async () => (await json("models")).data;

/** Experts that may be asked by name: `{name, model, description, …}`. */
export const listExperts = async () => (await json("experts")).data;

/** Who would answer, how sure, and why. */
export const routeOf = (body, signal) => json("route", { body, signal });

/** The chunks of a streamed answer. Throws a ServerError when the stream breaks, also in the middle. */
export async function* chunksOf(body, signal) {
  const streamed = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await send("chat/completions", { body: streamed, signal });
  for await (const data of unbroken(eventsOf(response.body), signal)) {
    if (data === "[DONE]") return;
    const chunk = parsed(data);
    if (chunk.error) throw new ServerError(chunk.error.message, { status: 200, code: chunk.error.code });
    yield chunk;
  }
  throw lostConnection();
}

async function* unbroken(events, signal) {
  try {
    yield* events;
  } catch (error) {
    throw signal.aborted ? error : lostConnection();
  }
}

async function json(path, request) {
  const response = await send(path, request);
  return response.json().catch(() => {
    const { status } = response;
    throw new ServerError("The answer is not JSON. Is another server behind this address?", { status });
  });
}

async function send(path, { body = null, signal = null } = {}) {
  const response = await fetch(new URL(path, API), {
    method: body === null ? "GET" : "POST",
    headers: headersFor(body),
    body: body === null ? null : JSON.stringify(body),
    signal,
    cache: "no-store",
    credentials: "same-origin",
  }).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server cannot be reached. See that it runs, then try again.", { code: "unreachable" });
  });
  if (!response.ok) throw await refusalOf(response);
  return response;
}

function headersFor(body) {
  const headers = body === null ? {} : { "content-type": "application/json" };
  const key = readKey();
  return key === "" ? headers : { ...headers, authorization: `Bearer ${key}` };
}

async function refusalOf(response) {
  const { error } = await response.json().catch(() => ({}));
  const retryAfter = Number(response.headers.get("retry-after") ?? NaN);
  return new ServerError(error?.message ?? `The server answered with status ${response.status}.`, {
    status: response.status,
    code: error?.code ?? "",
    retryAfterS: Number.isFinite(retryAfter) ? retryAfter : null,
  });
}

function parsed(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new ServerError("The stream holds something that is not JSON, so the rest was not read. Try again.");
  }
}

const lostConnection = () =>
  new ServerError("The connection was lost before the answer was complete. Try again.", { code: "connection_lost" });
