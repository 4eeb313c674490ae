/** The page: buttons, keys and files on one side, the running dialogue on the other. */
import { Microphone, Player, RATE, decodeFile, microphoneAllowedHere } from "./sound/audio.js";
import { Dialogue } from "./dialogue/dialogue.js";
import { LONGEST_TURN_S } from "./dialogue/recording.js";
import { Hearing } from "./sound/hearing.js";
import { Connection, Refused } from "./connection/realtime.js";
import { whyRefused } from "./connection/reasons.js";
import { Settings } from "./settings.js";
import { Timers } from "./tools/timers.js";
import { Toolbox } from "./tools/tools.js";
import { View } from "./view.js";

const SLOW_BYTES = 128_000; // bytes that wait to be sent: two seconds of the microphone
const MICROPHONE = "The microphone cannot be used";
const UNHEARD = "Could not hear you";
const CONNECTION = "There is no connection";
const HERE = /^(localhost|127(\.\d+){3}|\[::1\])$/; // hosts that are reached without a network
const SOUND = "There is no sound";
const SOUND_MS = 3000; // from a click to the first sound
const byId = (id) => document.getElementById(id);

const settings = new Settings(byId("settings"));
const player = new Player();
const about = fetch("about.json").then((answer) => answer.json());
const listen = (stream) => player.listen(stream);
const connection = new Connection(new URL("v1/realtime", location.href), () => settings.key, whyNoCall, listen);
const view = new View(replay);
const timers = new Timers(byId("timers"), () => player.ring(), (text) => view.announce(text));
const toolbox = new Toolbox(timers, (on) => chooseTheme(on ? "light" : "dark"));
const dialogue = new Dialogue(connection, player, settings, toolbox);
const microphone = new Microphone(heard, () => (view.notice(MICROPHONE, "It was unplugged or taken away."), hangUp()), tellMicrophone);
const listens = () => microphone.running && (settings.handsFree || held);
const hearing = new Hearing(listens, () => couldNotHear("No sound comes from"), () => view.removeNotice(UNHEARD));
let held = false; // whether the talk button is held, in push-to-talk
let model = "";
for (const name of ["error", "unhandledrejection"]) {
  window.addEventListener(name, ({ error, reason = error }) => { // what nobody has expected; the browser's own words may show the key
    const text = `If something does not work now, load the page again. (${reason?.name}; the browser's console says more.)`;
    if (reason) view.notice("The page has made a mistake", text);
  });
}
byId("unstarted").remove(); // the notice that the script was not loaded
let hint = ""; // shown until the next press

// -------------------------------------------------------------------------------------------- talking

byId("talk").addEventListener("click", () => settings.handsFree && (microphone.running ? hangUp() : talk()));
byId("talk").addEventListener("pointerdown", (event) => {
  if (settings.handsFree || event.button !== 0) return;
  byId("talk").setPointerCapture(event.pointerId);
  hold();
});
for (const name of ["pointerup", "pointercancel", "blur"]) byId("talk").addEventListener(name, letGo);
byId("talk").addEventListener("keydown", (event) => isPress(event) && !event.repeat && hold());
byId("talk").addEventListener("keyup", (event) => isPress(event) && letGo());
byId("talk").addEventListener("contextmenu", (event) => settings.handsFree || event.preventDefault()); // a long touch

const isPress = ({ key }) => !settings.handsFree && (key === " " || key === "Enter");

/** Why the session is not a call (WebRTC); "": it can be one. */
async function whyNoCall() {
  if (!settings.calls) return "calls (WebRTC) are switched off in Settings";
  if (!window.RTCPeerConnection) return "this browser has no WebRTC";
  if (!microphoneAllowedHere()) return "this page is neither HTTPS nor localhost";
  const { webrtc } = await about.catch(() => ({}));
  return webrtc ? "" : "this server takes no calls (WebRTC)";
}

/** A call gets the microphone while it is on, in push-to-talk while the button is held. */
function sendMicrophone() {
  connection.call?.speak(settings.handsFree || held ? microphone.track : null).catch(() => {}); // the call has just ended
}

/** Open the player and the session at the same time. Text needs no sound, so nothing waits for the player. */
const ready = () => (openPlayer(), connection.ready());

function openPlayer() {
  player.open().then(
    () => setTimeout(tellSound, SOUND_MS),
    ({ name }) => view.notice(SOUND, `The browser gives this page none (${name}). Replies are written.`),
  );
}

/** The browser or the system has stopped the sound, or lets it go on. */
function tellSound() {
  const why = "The browser or the system has stopped it, as for a phone call or a locked screen.";
  if (player.stopped) view.notice(SOUND, why, { label: "Turn it on", run: wake });
  else view.removeNotice(SOUND);
}

/** The system has stopped the microphone, or lets it go on. */
function tellMicrophone() {
  const why = "The system has stopped it, as for a phone call or a locked screen.";
  const restart = { label: "Use it again", run: () => microphone.stop().then(openMicrophone) };
  if (microphone.interrupted) view.notice(MICROPHONE, why, restart);
  else view.removeNotice(MICROPHONE);
  refresh();
}

/** Sound that was refused or stopped may be allowed now. */
function wake() {
  player.wake();
  microphone.wake();
}
player.addEventListener("state", tellSound);
for (const name of ["pointerup", "click", "keydown", "visibilitychange"]) document.addEventListener(name, wake, true);

async function talk() {
  await attempt(async () => {
    await ready();
    await openMicrophone();
  });
}

async function openMicrophone() {
  if (microphone.running) return;
  try {
    await microphone.start(settings.device, settings.noiseSuppression);
    view.removeNotice(MICROPHONE);
    settings.listDevices();
    hearing.restart();
    sendMicrophone();
  } catch (error) {
    view.notice(MICROPHONE, whyNoMicrophone(error));
    if (dialogue.userSpeaking) await hangUp(); // another one was chosen in mid-sentence
  }
  refresh();
}

/** The microphone is off, or gone: end what was being said. */
async function hangUp() {
  await microphone.stop();
  view.removeNotice(UNHEARD);
  sendMicrophone();
  dialogue.sendSilence();
  view.microphone(0);
  refresh();
}

async function hold() {
  held = true;
  hint = "";
  await attempt(async () => {
    await ready();
    await openMicrophone();
    sendMicrophone();
    if (held && microphone.running) await dialogue.press();
  });
  refresh();
}

async function letGo() {
  if (!held) return;
  held = false;
  view.microphone(0);
  const sent = dialogue.recording ? await attempt(() => dialogue.release()) : false;
  sendMicrophone();
  hint = sent === false && microphone.running ? "Hold the button while you speak, then let go." : "";
  refresh();
}

function heard(pcm, level, first) {
  dialogue.hear(pcm, first);
  hearing.hear(level);
  view.meter(Math.min(1, level * 5));
  if (settings.handsFree || dialogue.recording) view.microphone(Math.min(1, level * 5));
}

/** Say which microphone is used, and show its level, so that the user sees what is wrong. @param {string} why goes before its name. */
function couldNotHear(why) {
  const name = microphone.track?.label || "the microphone";
  const text = `${why} “${name}”. Speak: the bar should move. If it does not, choose another microphone.`;
  view.notice(UNHEARD, text, { label: "Choose a microphone", run: chooseMicrophone }, true);
}

async function chooseMicrophone() {
  await settings.listDevices();
  byId("settings").showModal();
  byId("device").focus();
}

function whyNoMicrophone({ name, message }) {
  const reasons = {
    NotAllowedError: "The browser does not allow this page to use the microphone. Click the symbol left of the address, allow the microphone, and press Talk again.",
    NotFoundError: "There is none. Plug one in, then press Talk again; or type, or send an audio file.",
    NotReadableError: "Another program is using it, or the system does not give it out. Close that program, then press Talk again.",
    OverconstrainedError: "The microphone chosen in Settings is not there any more. Choose another one.",
  };
  return reasons[name] ?? `${message} (${name})`;
}

// -------------------------------------------------------------------------------------------- typing, files, stopping

byId("compose").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("message").value.trim();
  if (!text) return;
  byId("message").value = "";
  say(text).then((sent) => sent === undefined && !byId("message").value && (byId("message").value = text)); // keep it
});

const say = (text) => attempt(async () => {
  await ready();
  await dialogue.type(text);
  return true;
});

byId("attach").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", () => {
  const [file] = byId("file").files;
  byId("file").value = ""; // the same file may be chosen again
  if (file) sendFile(file);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.toggle("dropping", event.dataTransfer.types.includes("Files"));
});
for (const name of ["dragleave", "drop"]) document.addEventListener(name, () => document.body.classList.remove("dropping"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  const [file] = event.dataTransfer.files;
  if (file) sendFile(file);
});

async function sendFile(file) {
  const title = `${file.name} cannot be sent`;
  let pcm;
  try {
    pcm = await decodeFile(file);
  } catch {
    view.notice(title, "The browser cannot read it as sound. WAV, FLAC, MP3, M4A, Ogg and WebM work in most browsers.");
    return;
  }
  if (pcm.length > LONGEST_TURN_S * RATE) {
    view.notice(title, `It is ${Math.round(pcm.length / RATE)} s long; a turn may take ${LONGEST_TURN_S} s.`);
    return;
  }
  view.removeNotice(title);
  await attempt(async () => {
    await ready();
    await dialogue.play(pcm);
  });
}

byId("stop").addEventListener("click", () => attempt(() => dialogue.interrupt()).then(() => byId("message").focus()));
document.addEventListener("keydown", ({ key }) => {
  if (key === "Escape" && !byId("settings").open && !byId("stop").hidden) attempt(() => dialogue.interrupt());
});

/** Run an action of the user and show its error as a notice. @returns the result of the action, undefined after an error. */
async function attempt(work) {
  try {
    const result = await work();
    view.removeNotice(CONNECTION);
    return result;
  } catch (error) {
    if (error instanceof Refused) view.notice("The server could not do that", error.message);
    else view.notice(CONNECTION, error.message, remedy(error.remedy, "Try again"));
    return undefined;
  } finally {
    refresh();
  }
}

/** What the user can do about a missing connection. */
function remedy(kind, label) {
  if (kind === "key") return { label: "Enter the key", run: enterKey };
  return { label, run: () => attempt(() => connection.ready()) };
}

function enterKey() {
  settings.listDevices();
  byId("settings").showModal();
  byId("key").focus();
  byId("key").select();
}
byId("settings").addEventListener("close", () => connection.remedy === "key" && settings.key && attempt(() => connection.ready()));

function replay(turn) {
  attempt(async () => {
    openPlayer();
    await dialogue.interrupt();
    const id = `again_${performance.now()}`;
    turn.audio.forEach((pcm) => player.push(id, pcm));
    player.end(id);
  });
}

// -------------------------------------------------------------------------------------------- settings

byId("open-settings").addEventListener("click", () => (settings.listDevices(), byId("settings").showModal()));
settings.addEventListener("change", async ({ detail: names }) => {
  const here = ["volume", "key", "device", "noise", "announce", "calls"]; // settings that the server does not need
  const sent = [...names].some((name) => !here.includes(name)) && connection.state === "open" && dialogue.configure(); // before the rest
  if (names.has("calls")) connection.forgetFailure();
  if (names.has("volume")) player.setVolume(settings.volume);
  if (names.has("mode") && microphone.running) await hangUp();
  else if ((names.has("device") || names.has("noise")) && microphone.running) await microphone.stop().then(openMicrophone);
  await sent;
  refresh();
});
player.setVolume(settings.volume);

byId("theme").addEventListener("click", () => {
  const order = ["", "light", "dark"];
  chooseTheme(order[(order.indexOf(document.documentElement.dataset.theme ?? "") + 1) % order.length]);
});

function chooseTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  settings.browser.set("echox-theme", theme);
  const label = `Theme: ${theme || "as the system"}`;
  Object.assign(byId("theme"), { title: label, ariaLabel: label });
}
chooseTheme(document.documentElement.dataset.theme ?? "");

byId("download").addEventListener("click", () => {
  const { json, wav } = dialogue.conversation.save(model);
  const name = `echox-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}`;
  for (const [blob, suffix] of [[json, "json"], [wav, "wav"]]) {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: `${name}.${suffix}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }
});
byId("defaults").addEventListener("click", async () => {
  await microphone.stop();
  settings.reset();
  await dialogue.restart(dialogue.conversation); // a session keeps what it was once given
  refresh();
});
byId("restart").addEventListener("click", async () => {
  await microphone.stop();
  await dialogue.restart();
  view.clear();
  byId("settings").close();
  refresh();
});

// -------------------------------------------------------------------------------------------- showing

dialogue.addEventListener("turn", ({ detail }) => view.turn(detail));
dialogue.addEventListener("removed", ({ detail }) => view.remove(detail));
dialogue.addEventListener("change", refresh);
dialogue.addEventListener("full", () => {
  view.notice("The longest turn is reached", "The server takes no longer one. What you said until then was sent.");
  letGo();
});
dialogue.addEventListener("problem", ({ detail: { title, text, unheard } }) => {
  if (unheard && microphone.running) couldNotHear("No words were found in what came from");
  else view.notice(title, text);
});
dialogue.addEventListener("said", ({ detail: { role, text, source, name, output } }) => {
  if (role === "user" && source === "voice" && text) view.removeNotice(UNHEARD);
  if (role === "user" && source !== "text") view.announce(`You said: ${text || "nothing that was understood"}`);
  if (role === "assistant" && settings.announce) view.announce(`EchoX: ${text}`);
  if (role === "tool" && settings.announce) view.announce(`Tool ${name}: ${output}`);
});
connection.addEventListener("open", ({ detail }) => view.model((model = detail.model ?? model)));
connection.addEventListener("open", () => (connection.call ? sendMicrophone() : player.leave()));
connection.addEventListener("silent", refresh);
let told = ["closed", "Not connected", ""]; // what the connection told last: its state, in words, and why
connection.addEventListener("state", ({ detail: { state, reason, retryS, remedy: kind } }) => {
  const words = {
    closed: "Not connected", connecting: "Connecting…", open: "Connected", waiting: `Trying again in ${retryS} s`,
  };
  told = [state, words[state], reason];
  if (state === "open") view.removeNotice(CONNECTION);
  else if (state === "waiting") view.notice(CONNECTION, `${reason} The next session continues this conversation.`, remedy("", "Try now"));
  else if (state === "closed" && reason) view.notice(CONNECTION, reason, remedy(kind, "Connect"));
  refresh();
});
window.addEventListener("offline", refresh);
window.addEventListener("online", refresh);
window.addEventListener("online", () => connection.forgetFailure());
window.addEventListener("online", () => connection.state === "waiting" && attempt(() => connection.ready()));

/** The sign at the top: what is seen of the network goes before what the connection told. */
function showConnection() {
  const [state, words, reason] = told;
  if (!navigator.onLine && !HERE.test(location.hostname)) view.connection("waiting", "Offline", "This device has no network.");
  else if (connection.silent) view.connection("waiting", "No answer", "The server has not answered for some seconds.");
  else if (connection.state === "open" && connection.socket.bufferedAmount > SLOW_BYTES) {
    view.connection("open", "Slow network", "Your voice is not getting through in time.");
  } else view.connection(state, words, state === "open" ? connection.way : reason);
}

function refresh() {
  showConnection();
  const { phase, words } = currentPhase();
  view.phase(phase, words);
  const turn = dialogue.conversation.turns.findLast(({ figures }) => figures.rtf !== undefined);
  const { firstAudioS, rtf } = turn?.figures ?? {};
  view.figures({
    "first-audio": firstAudioS === undefined ? "–" : `${firstAudioS.toFixed(2)} s`,
    rtf: rtf === undefined ? "–" : rtf.toFixed(2),
    underruns: String(player.underruns),
    "round-trip": dialogue.roundTripMs === null ? "–" : `${Math.round(dialogue.roundTripMs)} ms`,
  });
  const label = settings.handsFree ? (microphone.running ? "Mute" : "Talk") : "Hold to talk";
  const pressed = settings.handsFree ? microphone.running : Boolean(dialogue.recording);
  view.talkButton({ label, pressed, disabled: !microphoneAllowedHere() });
}

function currentPhase() {
  if (connection.silent) return { phase: "lost", words: "The server does not answer. What you say now may not be heard." };
  const open = connection.state === "open";
  if (microphone.interrupted) return { phase: "lost", words: "The microphone is stopped: nobody hears you." };
  if (dialogue.recording && !open) return { phase: "lost", words: "Not connected. What you say is kept until you let go." };
  if (microphone.running && !open) return { phase: "lost", words: "Not connected: nobody hears you." };
  if (dialogue.recording) return { phase: "hearing", words: "Hearing you. Let go when you are done." };
  if (dialogue.userSpeaking) {
    const words = dialogue.guessing ? "A pause: a reply is being begun. Go on if you like." : "Hearing you…";
    return { phase: "hearing", words };
  }
  if (dialogue.speaking) {
    const live = microphone.running && settings.handsFree;
    return { phase: "speaking", words: live ? "Speaking. Talk or type to cut in." : "Speaking. Type to cut in." };
  }
  if (dialogue.thinking) return { phase: "thinking", words: dialogue.calls.busy ? "Using a tool…" : "Thinking…" };
  if (microphone.running && settings.handsFree) return { phase: "listening", words: dialogue.stoppedByWord ? "Stopped. Listening…" : "Listening…" };
  return { phase: "idle", words: hint || "Ready." };
}

function frame() {
  view.line(player.analyser, dialogue.speaking);
  const bufferedS = player.now?.bufferedS;
  view.figures({ buffered: bufferedS === undefined ? "–" : `${bufferedS.toFixed(1)} s` });
  showConnection();
  requestAnimationFrame(frame);
}

/** The first view: what the model knows and example questions, from its folder. */
async function introduce() {
  const { model: name, knows, examples, tools, judges_turns: judgesTurns } = await about;
  settings.offerTools(tools);
  settings.offerJudgement(judgesTurns);
  if ((settings.tools || settings.endsWhenComplete) && connection.state === "open") dialogue.configure(); // it was opened meanwhile
  model ||= name;
  view.model(model);
  view.introduce(knows, examples, say);
}
introduce().catch(() => view.notice(CONNECTION, whyRefused(null).text, remedy("", "Connect")));

byId("figures").open = Boolean(settings.browser.get("echox-figures"));
byId("figures").addEventListener("toggle", () => {
  settings.browser.set("echox-figures", byId("figures").open);
  document.body.toggleAttribute("data-figures", byId("figures").open);
});

if (!microphoneAllowedHere()) {
  view.notice(
    MICROPHONE,
    `Browsers give a microphone only to pages opened over HTTPS or from this machine, and this one came from ${location.origin}. ` +
      "Forward the port (ssh -L 8000:localhost:8000 server) and open http://localhost:8000, or put HTTPS in front. Typing and audio files work here as they are.",
  );
}
refresh();
frame();
