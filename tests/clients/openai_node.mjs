// OpenAI's client for JavaScript, asked everything we serve; prints what it made of the answers as one JSON object.
// Usage: node openai_node.mjs FOLDER_WITH_NODE_MODULES BASE_URL
import { createRequire } from "node:module";
import { join } from "node:path";

const [folder, baseURL] = process.argv.slice(2);
const OpenAI = createRequire(join(folder, "package.json"))("openai").default;
const client = new OpenAI({ apiKey: "x", baseURL, maxRetries: 0 });

const messages = [{ role: "user", content: "hello" }];
const bound = { model: "left", temperature: 0, expert: "code" };
const free = { model: "left", temperature: 1.5, seed: 1 };
const schema = {
  type: "object",
  properties: { a: { type: "string", enum: ["x", "y"] } },
  required: ["a"],
  additionalProperties: false,
};
const tool = { type: "function", name: "choose", parameters: schema, strict: true };

const all = async (stream) => {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
};

const scenarios = {
  async chat() {
    const whole = await client.chat.completions.create({ ...bound, messages, max_tokens: 8 });
    const chunks = await all(
      await client.chat.completions.create({
        ...bound, messages, max_tokens: 8, stream: true, stream_options: { include_usage: true },
      }),
    );
    const text = chunks.map((chunk) => chunk.choices[0]?.delta?.content ?? "").join("");
    return { whole: whole.choices[0].message.content, text, usage: whole.usage, streamed: chunks.at(-1).usage };
  },
  async tools() {
    const { type, ...fn } = tool;
    const runner = client.chat.completions.stream({
      ...free, messages, max_tokens: 90, tools: [{ type, function: fn }], tool_choice: "required",
      parallel_tool_calls: false,
    });
    const call = (await runner.finalChatCompletion()).choices[0].message.tool_calls[0];
    return { name: call.function.name, arguments: JSON.parse(call.function.arguments), id: call.id };
  },
  async structured() {
    const format = { type: "json_schema", json_schema: { name: "choice", strict: true, schema } };
    const answer = await client.chat.completions.parse({
      ...free, messages, max_tokens: 60, response_format: format,
    });
    return JSON.parse(answer.choices[0].message.content);
  },
  async response() {
    const asked = { ...bound, input: "hello", max_output_tokens: 8 };
    const whole = await client.responses.create(asked);
    const events = await all(await client.responses.create({ ...asked, stream: true }));
    const text = events.filter((e) => e.type === "response.output_text.delta").map((e) => e.delta).join("");
    return { whole: whole.output_text, text, types: events.map((e) => e.type), status: whole.status };
  },
  async responseStructured() {
    const text = { format: { type: "json_schema", name: "choice", strict: true, schema } };
    const stream = client.responses.stream({ ...free, input: "hello", max_output_tokens: 60, text });
    return JSON.parse((await stream.finalResponse()).output_text);
  },
  async responseTools() {
    const asked = { ...free, max_output_tokens: 90, tools: [tool], parallel_tool_calls: false };
    const first = await client.responses.parse({ ...asked, input: "hello", tool_choice: "required" });
    const call = first.output[0];
    const result = { type: "function_call_output", call_id: call.call_id, output: "done" };
    const input = [{ role: "user", content: "hello" }, call, result];
    const second = await client.responses.create({ ...asked, input, tool_choice: "none" });
    return { name: call.name, arguments: JSON.parse(call.arguments), then: second.output[0].type };
  },
  async embeddings() {
    const input = ["hello", "a haiku"];
    const travelled = await client.embeddings.create({ model: "left", input });
    const plain = await client.embeddings.create({ model: "left", input, encoding_format: "float" });
    const spell = (answer) => answer.data.map((one) => [...new Float32Array(one.embedding)]);
    return { travelled: spell(travelled), plain: spell(plain), usage: plain.usage };
  },
  async models() {
    return (await all(await client.models.list())).map((model) => model.id);
  },
  async errors() {
    const failures = [
      () => client.chat.completions.create({ ...bound, model: "nothing", messages }),
      () => client.responses.create({ ...bound, input: "hello", previous_response_id: "resp_1" }),
      () => client.embeddings.create({ model: "left", input: [1, 2, 3] }),
    ];
    const told = [];
    for (const fail of failures) {
      await fail().catch((error) => told.push([error.constructor.name, error.status, error.code, error.param]));
    }
    return told;
  },
};

const told = {};
for (const [name, run] of Object.entries(scenarios)) {
  try {
    told[name] = await run();
  } catch (error) {
    told[name] = { failed: `${error.constructor.name}: ${error.message}` };
  }
}
console.log(JSON.stringify(told));
