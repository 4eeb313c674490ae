/** Replies that were stopped: what the model keeps of them, in the session that made them and in later ones. */
import { newId } from "./conversation.js";
import { Refused } from "../connection/realtime.js";

/**
 * Let the server that made a reply cut it to what was heard.
 * @param {import("../connection/realtime.js").Connection} connection
 * @param {import("./conversation.js").Turn} turn @param {boolean} begun some of its sound may have come
 * @returns {Promise<string | null>} the text that it keeps; null: it did not answer.
 */
export async function cutAtServer(connection, turn, begun) {
  const where = { item_id: turn.id, content_index: 0, audio_end_ms: Math.floor(turn.playedS * 1000) };
  const isTruncated = ({ type, item_id: id }) => type === "conversation.item.truncated" && id === turn.id;
  const isItem = ({ type, item }) => type === "conversation.item.retrieved" && item.id === turn.id;
  try {
    if ((turn.frames || begun) && !turn.called) {
      const cut = connection.ask({ type: "conversation.item.truncate", ...where }, isTruncated);
      await cut.catch((error) => error instanceof Refused || Promise.reject(error)); // refused: it has cut it already
    }
    const { item } = await connection.ask({ type: "conversation.item.retrieve", item_id: turn.id }, isItem);
    return item.content[0]?.transcript ?? item.content[0]?.text ?? "";
  } catch (error) {
    return error instanceof Refused ? "" : null; // refused: nothing was heard, nothing is kept
  }
}

/** The turns of older sessions as text, which the server cannot cut where a voice was stopped. */
export class Given {
  /**
   * Give the turns of a conversation to the session that was opened now.
   * @param {import("../connection/realtime.js").Connection} connection
   * @param {import("./conversation.js").Conversation} conversation
   */
  constructor(connection, conversation) {
    this.connection = connection;
    const items = conversation.asItems();
    this.ids = new Set(items.map(({ id }) => id));
    for (const item of items) connection.send({ type: "conversation.item.create", item });
  }

  /** A reply was cut after it was given: put what was heard of it in its place. @param {import("./conversation.js").Turn} turn */
  replace(turn) {
    if (!this.ids.delete(turn.id)) return;
    for (const item of turn.items) this.#tell("added", "create", { previous_item_id: turn.id, item: { ...item, id: newId() } });
    this.#tell("deleted", "delete", { item_id: turn.id });
  }

  #tell(done, what, event) {
    const id = event.item?.id ?? event.item_id;
    const isDone = ({ type, item, item_id: gone }) => type === `conversation.item.${done}` && (item?.id ?? gone) === id;
    this.connection.ask({ type: `conversation.item.${what}`, ...event }, isDone).catch(() => {}); // the server has dropped it as too old
  }
}
