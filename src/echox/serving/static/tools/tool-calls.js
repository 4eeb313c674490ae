/** Calls of tools in a dialogue: shown while they are written, run on this page, and answered, so that none is left hanging. */

const MOST_ROUNDS = 3; // replies in a row that call tools; then the model has to answer
const STOPPED = { error: "The user interrupted it." };
/** JSON with the spaces that outputs have in the lessons of small models. */
const written = (output) => `{${Object.entries(output).map((pair) => pair.map((part) => JSON.stringify(part)).join(": ")).join(", ")}}`;

export class ToolCalls {
  /**
   * @param {import("../connection/realtime.js").Connection} connection
   * @param {import("./tools.js").Toolbox} toolbox
   * @param {{add: (item: object) => import("../dialogue/conversation.js").Call, changed: (call: object) => void, ask: (response: object) => void}} dialogue
   * adds a call to the conversation; is told when it has changed; asks for the reply to its output.
   */
  constructor(connection, toolbox, dialogue) {
    Object.assign(this, { connection, toolbox, dialogue });
    this.group = null; // the calls of one response: {id, calls, ended, stopped}
    this.rounds = 0; // responses in a row that called tools
    this.stopped = new Set(); // ids of responses: calls in them that are still on their way are not run
  }

  /** Whether a call is being written or run. */
  get busy() {
    return this.group !== null;
  }

  /** An item of a call begins. */
  begin({ response_id: id, item }) {
    if (this.group?.id !== id) this.group = { id, calls: [], ended: false, stopped: this.stopped.has(id) };
    this.group.calls.push(this.dialogue.add(item));
  }

  write({ item_id: id, delta }) {
    const call = this.#find(id);
    if (!call) return;
    call.arguments += delta;
    this.dialogue.changed(call);
  }

  /** The arguments are complete: run it. */
  async run({ item_id: id, arguments: given }) {
    const { group } = this;
    const call = this.#find(id);
    if (!call) return;
    Object.assign(call, { arguments: given, state: "running" });
    this.dialogue.changed(call);
    const output = group.stopped ? STOPPED : await this.toolbox.run(call.name, given);
    if (call.state !== "running") return; // interrupted meanwhile
    this.#answer(call, output, output === STOPPED ? "interrupted" : output.error ? "failed" : "done");
    this.#goOn(group);
  }

  /** A response has ended; what it has not written to its end is not run. */
  end({ id, status }) {
    const { group } = this;
    if (group?.id !== id) return;
    group.ended = true;
    group.stopped ||= !["completed", "incomplete"].includes(status);
    this.#cut(group);
    this.#goOn(group);
  }

  /** The user speaks, types or stops it: no reply to these calls is wanted any more, nor calls of this response. */
  stop(id) {
    this.rounds = 0;
    if (id) this.stopped.add(id);
    const { group } = this;
    if (!group) return;
    group.stopped = true;
    for (const call of group.calls) if (call.state === "running") this.#answer(call, STOPPED, "interrupted");
    this.#goOn(group);
  }

  /** The session is lost, and what is not answered with it. */
  lose() {
    const { group } = this;
    if (!group) return;
    this.stop();
    this.#cut(group);
    this.group = null;
  }

  #find(id) {
    return this.group?.calls.find((call) => call.id === id);
  }

  #cut(group) {
    for (const call of group.calls.filter(({ state }) => state === "open")) {
      call.state = "interrupted";
      this.dialogue.changed(call);
    }
  }

  #answer(call, output, state) {
    Object.assign(call, { output: written(output), state });
    this.connection.send({ type: "conversation.item.create", item: call.outputItem });
    this.dialogue.changed(call);
  }

  /** Ask for the reply, once the response has ended and each of its calls has its output. */
  #goOn(group) {
    if (!group.ended || this.group !== group || group.calls.some(({ state }) => state === "running")) return;
    this.group = null;
    if (group.stopped || !group.calls.some(({ output }) => output !== null)) return;
    this.rounds += 1;
    this.dialogue.ask(this.rounds < MOST_ROUNDS ? {} : { tool_choice: "none" });
  }
}
