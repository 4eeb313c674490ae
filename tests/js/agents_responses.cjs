/**
 * @openai/agents, which calls the Responses API by default, asks two questions in a row in three ways.
 *
 * node agents_responses.cjs URL QUESTION QUESTION   (URL ends with /v1; AGENTS_HOME holds node_modules)
 * The last line of its output is JSON: the two replies of each way, and what the SDK counted.
 */
const { createRequire } = require("node:module");
const load = createRequire(`${process.env.AGENTS_HOME}/`);
const { Agent, run, setDefaultOpenAIClient, setTracingDisabled } = load("@openai/agents");
const { default: OpenAI } = load("openai");

const [baseURL, ...questions] = process.argv.slice(2);
setDefaultOpenAIClient(new OpenAI({ baseURL, apiKey: "any", maxRetries: 0 }));
setTracingDisabled(true);
const agent = new Agent({ name: "nano", instructions: "You are brief.", model: "nano" });

/** The history travels with each request. */
async function byHistory() {
  const first = await run(agent, questions[0]);
  const second = await run(agent, [...first.history, { role: "user", content: questions[1] }]);
  return { texts: [first.finalOutput, second.finalOutput], usage: second.rawResponses[0].usage };
}

/** The server keeps the history. */
async function byId() {
  const first = await run(agent, questions[0]);
  const second = await run(agent, questions[1], { previousResponseId: first.lastResponseId });
  return { texts: [first.finalOutput, second.finalOutput] };
}

/** As `byId`, streamed. */
async function streamed() {
  const texts = [];
  let previousResponseId;
  for (const question of questions) {
    const result = await run(agent, question, { stream: true, previousResponseId });
    let text = "";
    for await (const piece of result.toTextStream()) text += piece;
    await result.completed;
    texts.push(text);
    previousResponseId = result.lastResponseId;
  }
  return { texts };
}

async function main() {
  console.log(JSON.stringify({ byHistory: await byHistory(), byId: await byId(), streamed: await streamed() }));
}

main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
