/**
 * @openai/agents holds spoken tool round trips: a question, the call, the tool's output, and the spoken answer.
 *
 * node agents_tools.cjs URL OPTIONS.json QUESTION.pcm...   (24 kHz s16le; AGENTS_HOME holds node_modules)
 * OPTIONS: {"tools": [{"name", "description", "parameters", "output"}], "choices": the tool_choice of each question,
 * "stepMs": pause after 100 ms of sound, "waitMs"}.
 * The last line of its output is JSON: of each turn the calls and the seconds of speech; errors, and events that are not
 * in the SDK's own schemas.
 */
const { createRequire } = require("node:module");
const { readFileSync } = require("node:fs");
const load = createRequire(`${process.env.AGENTS_HOME}/`);
const { RealtimeAgent, RealtimeSession, OpenAIRealtimeWebSocket, tool } = load("@openai/agents/realtime");
const { parseRealtimeEvent } = load(
  `${process.env.AGENTS_HOME}/node_modules/@openai/agents-realtime/dist/openaiRealtimeEvents.js`,
);

const [url, options, ...files] = process.argv.slice(2);
const { tools, choices, stepMs = 100, waitMs = 120_000 } = JSON.parse(readFileSync(options));
const CHUNK_BYTES = 4800; // 100 ms
const errors = [];
const unparsed = new Set();
const deltas = {}; // call_id -> the arguments as they were streamed
let turn = null;

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const until = async (what, test) => {
  for (let waited = 0; !test(); waited += 20) {
    if (waited > waitMs) throw new Error(`waited in vain for ${what}: ${JSON.stringify({ turn, errors })}`);
    await sleep(20);
  }
};

async function main() {
  const transport = new OpenAIRealtimeWebSocket({ url });
  const choose = (tool_choice) => transport.sendEvent({ type: "session.update", session: { type: "realtime", tool_choice } });
  const declared = tools.map(({ name, description, parameters, output }) =>
    tool({
      name,
      description,
      parameters: { additionalProperties: false, ...parameters },
      strict: false,
      execute: (input) => {
        turn.calls.push({ name, arguments: input });
        choose("none"); // the answer is said
        return output;
      },
    }),
  );
  const agent = new RealtimeAgent({ name: "echox", instructions: "", tools: declared });
  const session = new RealtimeSession(agent, { transport, config: { toolChoice: "auto" } });
  session.on("audio", (event) => { if (turn) turn.audioBytes += event.data.byteLength; });
  session.on("error", (event) => errors.push(String(event.error?.message ?? JSON.stringify(event.error))));
  session.on("transport_event", (event) => {
    if (parseRealtimeEvent({ data: JSON.stringify(event) }).isGeneric) unparsed.add(event.type);
    if (event.type === "response.function_call_arguments.delta") {
      deltas[event.call_id] = (deltas[event.call_id] ?? "") + event.delta;
    } else if (event.type === "response.function_call_arguments.done") {
      if (deltas[event.call_id] !== event.arguments) errors.push(`deltas of ${event.call_id} are not its arguments`);
    } else if (event.type === "response.done" && turn) {
      turn.statuses.push(event.response.status);
      turn.responses.push(event.response.output.map(({ type }) => type));
    }
  });
  await session.connect({ apiKey: "any" });
  const turns = [];
  for (const [number, file] of files.entries()) {
    choose(choices[number]);
    turn = { calls: [], statuses: [], responses: [], audioBytes: 0 };
    const sound = Buffer.concat([readFileSync(file), Buffer.alloc(48 * 2500)]); // the SDK asks for semantic_vad
    for (let start = 0; start < sound.length; start += CHUNK_BYTES) {
      session.sendAudio(new Uint8Array(sound.subarray(start, start + CHUNK_BYTES)).buffer);
      await sleep(stepMs);
    }
    // A turn is over when the last response holds no call that is whole.
    const over = () => turn.statuses.length && (turn.statuses.at(-1) !== "completed" || !turn.responses.at(-1).includes("function_call"));
    await until("the reply", over);
    if (stepMs === 100) await sleep(turn.audioBytes / 48 + 300); // it is played to its end
    turns.push(turn);
  }
  await sleep(500);
  session.close();
  console.log(JSON.stringify({ turns, errors, unparsed: [...unparsed] }));
  process.exit(0);
}

main().catch((error) => { console.error(error); process.exit(1); });
