// Asks for one answer and writes down what comes: text, who gives it, how long it took, and how it ended.

import { chunksOf } from "./server.js";

/**
 * Fill `answer` from the stream; `onChange` is called after each change. Never throws: a failure is written down too.
 * @param {Object} answer as made by newAnswer
 * @param {Object} body of the request
 * @param {AbortSignal} signal stops it
 */
export async function fillAnswer(answer, body, signal, onChange) {
  const startedMs = performance.now();
  const secondsSoFar = () => (performance.now() - startedMs) / 1000;
  try {
    for await (const chunk of chunksOf(body, signal)) {
      readChunk(answer, chunk, secondsSoFar);
      onChange();
    }
    answer.state = "done";
  } catch (error) {
    Object.assign(answer, failure(error, signal));
  }
  answer.durationS ??= secondsSoFar();
  onChange();
}

function readChunk(answer, chunk, secondsSoFar) {
  answer.state = "streaming";
  if (chunk.routing) readHead(answer, chunk);
  if (chunk.usage) answer.usage = chunk.usage;
  const [choice] = chunk.choices;
  if (choice?.delta?.content) {
    answer.firstTokenS ??= secondsSoFar();
    answer.text += choice.delta.content;
  }
  if (choice?.finish_reason) Object.assign(answer, { finishReason: choice.finish_reason, durationS: secondsSoFar() });
}

function readHead(answer, { expert, routing, ignored = [] }) {
  Object.assign(answer, { expert, ignored, routedBy: routing.routed_by, confidence: routing.confidence });
}

function failure(error, signal) {
  if (signal.aborted) return { state: "stopped" };
  const { message, status = 0, code = "internal", retryAfterS = null } = error;
  return { state: "failed", error: { message, status, code, retryAfterS } };
}
