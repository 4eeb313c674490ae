/**
 * @openai/agents holds a spoken conversation of three turns with a server, interrupting the second reply.
 *
 * node agents_client.cjs URL QUESTION.pcm QUESTION.pcm QUESTION.pcm   (24 kHz s16le; AGENTS_HOME holds node_modules)
 * The last line of its output is JSON: the history as the SDK has it, and what happened on the way.
 */
const { createRequire } = require("node:module");
const { readFileSync } = require("node:fs");
const load = createRequire(`${process.env.AGENTS_HOME}/`);
const { RealtimeAgent, RealtimeSession, OpenAIRealtimeWebSocket } = load("@openai/agents/realtime");
const { parseRealtimeEvent } = load(
  `${process.env.AGENTS_HOME}/node_modules/@openai/agents-realtime/dist/openaiRealtimeEvents.js`,
);

const [url, ...files] = process.argv.slice(2);
const questions = files.map((file) => readFileSync(file));
const CHUNK_BYTES = 4800; // 100 ms
const seen = {};
const unparsed = [];
const errors = [];
let audioBytes = 0;
let interruptions = 0;

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const until = async (what, test) => {
  for (let waited = 0; !test(); waited += 20) {
    if (waited > 40000) throw new Error(`waited in vain for ${what}: ${JSON.stringify(seen)}`);
    await sleep(20);
  }
};

async function main() {
  const transport = new OpenAIRealtimeWebSocket({ url });
  const session = new RealtimeSession(new RealtimeAgent({ name: "nano", instructions: "" }), { transport });
  session.on("audio", (event) => { audioBytes += event.data.byteLength; });
  session.on("audio_interrupted", () => { interruptions += 1; });
  session.on("error", (event) => errors.push(String(event.error?.message ?? JSON.stringify(event.error))));
  session.on("transport_event", (event) => {
    seen[event.type] = (seen[event.type] ?? 0) + 1;
    if (parseRealtimeEvent({ data: JSON.stringify(event) }).isGeneric) unparsed.push(event.type);
  });
  const say = async (sound, silence_ms) => {
    const padded = Buffer.concat([sound, Buffer.alloc(48 * silence_ms)]);
    for (let start = 0; start < padded.length; start += CHUNK_BYTES) {
      session.sendAudio(new Uint8Array(padded.subarray(start, start + CHUNK_BYTES)).buffer);
      await sleep(100);
    }
  };
  await session.connect({ apiKey: "any" });
  await say(questions[0], 700);
  await until("the first reply", () => seen["response.done"] === 1);
  await sleep(audioBytes / 48 + 300); // it is played to its end
  const before = audioBytes; // a reply may begin before the last of the silence is sent
  await say(questions[1], 700);
  await until("the second reply", () => audioBytes > before);
  await sleep(1000);
  await say(questions[2], 800); // over the second reply
  await until("the third reply", () => seen["response.done"] === 3);
  await sleep(1000); // what the SDK asks for by itself (item.retrieve) comes back
  const history = session.history.map(({ itemId, role, status, content }) => ({
    itemId, role, status, content: content.map(({ type, transcript, text }) => ({ type, transcript, text })),
  }));
  session.close();
  console.log(JSON.stringify({ history, seen, unparsed: [...new Set(unparsed)], errors, interruptions, audioBytes }));
  process.exit(0);
}

main().catch((error) => { console.error(error); process.exit(1); });
