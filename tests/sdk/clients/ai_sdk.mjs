// Vercel's AI SDK, by each of its providers that speaks an API of tollgate's: `compatible` (chat
// completions), `openai` (the Responses API) and `anthropic` (messages).

import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { createRequire } from "node:module";
import * as checks from "./checks.mjs";

const baseURL = checks.BASE_URL;
const apiKey = checks.API_KEY;
const providers = {
  compatible: () =>
    createOpenAICompatible({ name: "tollgate", baseURL, apiKey, includeUsage: true, supportsStructuredOutputs: true }),
  openai: () => createOpenAI({ baseURL, apiKey }),
  anthropic: () => createAnthropic({ baseURL, apiKey }),
};
const [, , name = "compatible"] = process.argv;
const provider = providers[name]();
// Where the gateway keeps no answers, their items have to be sent and not their ids.
const unkept = { providerOptions: { openai: { store: false } } };
const asked = { model: provider(checks.MODEL), maxOutputTokens: 64, temperature: 0, maxRetries: 0, ...unkept };
const ask = (prompt) => ({ ...asked, prompt });

async function chat() {
  const { text, usage } = await generateText(ask(checks.QUESTION));
  checks.said(text);
  checks.counted(usage.inputTokens, usage.outputTokens);
}

async function stream() {
  const pieces = [];
  let wrong;
  const result = streamText({ ...ask(checks.QUESTION), onError: ({ error }) => (wrong = error) });
  for await (const piece of result.textStream) pieces.push(piece);
  if (wrong) throw wrong;
  checks.inPieces(pieces);
  const usage = await result.usage;
  checks.counted(usage.inputTokens, usage.outputTokens);
}

async function tools() {
  const get_weather = tool({
    description: checks.TOOL_SAYS,
    inputSchema: checks.Parameters,
    execute: async () => checks.WEATHER,
  });
  const { steps, text } = await generateText({
    ...ask(checks.ASK_WEATHER),
    tools: { get_weather },
    stopWhen: stepCountIs(2),
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? { type: "tool", toolName: checks.TOOL } : "none" }),
  });
  const [call] = steps[0].toolCalls;
  checks.called(call.toolName, call.input);
  checks.said(text);
}

async function turns() {
  const messages = [{ role: "user", content: checks.QUESTION }];
  const first = await generateText({ ...asked, messages });
  messages.push(...first.response.messages, { role: "user", content: "And another one." });
  checks.said((await generateText({ ...asked, messages })).text);
}

async function structured() {
  const { output } = await generateText({ ...ask(checks.ASK_FRUIT), output: Output.object({ schema: checks.Fruit }) });
  checks.fits(output);
}

async function embeddings() {
  const model = provider.embeddingModel(checks.MODEL);
  checks.embedded((await embedMany({ model, values: checks.TEXTS, maxRetries: 0 })).embeddings);
}

const { version } = createRequire(import.meta.url)("ai/package.json");
const abilities = [chat, stream, turns, tools, structured];
if (name !== "anthropic") abilities.push(embeddings);
await checks.report(version, ...abilities);
