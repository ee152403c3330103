// Vercel's AI SDK: its package for compatible servers, and OpenAI's own, whose default is /v1/responses.
// Usage: node with_ai_sdk.mjs FOLDER_WITH_NODE_MODULES BASE_URL MODEL
import { createRequire } from "node:module";
import { join } from "node:path";

const [folder, baseURL, name] = process.argv.slice(2);
const require = createRequire(join(folder, "package.json"));
const { embedMany, generateObject, generateText, streamText, tool } = require("ai");
const { createOpenAICompatible } = require("@ai-sdk/openai-compatible");
const { createOpenAI } = require("@ai-sdk/openai");
const { z } = require("zod");

const provider = createOpenAICompatible({
  name: "lmoe", baseURL, apiKey: "x", includeUsage: true, supportsStructuredOutputs: true,
});
const openai = createOpenAI({ baseURL, apiKey: "x" });
const few = { model: provider(name), temperature: 0, maxOutputTokens: 16, maxRetries: 0 };
const many = { ...few, maxOutputTokens: 120 };
const place = z.object({ city: z.enum(["Paris", "Rome"]) });
const question = "What is the weather in Paris?";

const scenarios = {
  async chat() {
    return (await generateText({ ...few, prompt: "hello there" })).text;
  },
  async stream() {
    const result = streamText({ ...few, prompt: "hello there" });
    let text = "";
    for await (const part of result.textStream) text += part;
    if (!((await result.usage).totalTokens > 0)) throw new Error("no usage");
    return text;
  },
  async completion() {
    return (await generateText({ ...few, model: provider.completionModel(name), prompt: "hello there" })).text;
  },
  async tools() {
    const weather = tool({ description: "of a city", inputSchema: place });
    const result = await generateText({ ...many, prompt: question, tools: { weather }, toolChoice: "required" });
    return [result.toolCalls[0].toolName, result.toolCalls[0].input];
  },
  async structured() {
    return (await generateObject({ ...many, prompt: question, schema: place })).object;
  },
  async response() {
    return (await generateText({ ...few, model: openai(name), prompt: "hello there" })).text;
  },
  async embeddings() {
    const model = provider.textEmbeddingModel(name);
    return (await embedMany({ model, values: ["hello there", "x"], maxRetries: 0 })).embeddings;
  },
};

const told = {};
for (const [scenario, run] of Object.entries(scenarios)) {
  told[scenario] = await run().catch((error) => ({ failed: `${error.name}: ${error.message}` }));
}
console.log(JSON.stringify(told));
