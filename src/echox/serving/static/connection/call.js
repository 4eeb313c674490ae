/** A call (WebRTC) with the face of a WebSocket: events go over its data channel, sound over its tracks. */

const GATHER_MS = 1000; // for addresses; the server answers to those that have proved themselves, so none is waited for longer

/** Why the server took no call; `again`: another one may be taken. */
class NoCall extends Error {
  constructor(text, again) {
    super(text);
    this.again = again;
  }
}

export class CallSocket {
  /** @param {URL} url of the endpoint of calls. @param {string} key the API key, "" for none. */
  constructor(url, key) {
    this.readyState = WebSocket.CONNECTING;
    this.onopen = this.onmessage = this.onclose = null;
    this.why = null; // {text, again}: why it did not open
    this.answered = false; // the server has answered the request, whatever becomes of the sound
    this.stream = new Promise((resolve) => (this.#gotStream = resolve)); // the voice of the server
    this.peer = new RTCPeerConnection();
    this.sender = this.peer.addTransceiver("audio", { direction: "sendrecv" }).sender;
    this.channel = this.peer.createDataChannel("oai-events");
    this.peer.ontrack = ({ streams: [stream], track }) => this.#gotStream(stream ?? new MediaStream([track]));
    this.channel.onopen = () => {
      this.readyState = WebSocket.OPEN;
      this.onopen?.();
    };
    this.channel.onmessage = ({ data }) => this.onmessage?.({ data });
    this.channel.onclose = () => this.#end("The call ended.", true);
    this.peer.onconnectionstatechange = () => this.peer.connectionState === "failed" && this.#end("Its sound does not get through the network.", false);
    this.#call(url, key).catch((error) => this.#end(error.message, error.again ?? false));
  }

  #gotStream;

  get bufferedAmount() {
    return this.channel.bufferedAmount;
  }

  /** Send the microphone. @param {MediaStreamTrack | null} track */
  speak(track) {
    return this.sender.replaceTrack(track);
  }

  send(text) {
    this.channel.send(text);
  }

  close() {
    this.#end("", true);
  }

  async #call(url, key) {
    await this.peer.setLocalDescription();
    await new Promise((resolve) => {
      setTimeout(resolve, GATHER_MS);
      this.peer.onicegatheringstatechange = () => this.peer.iceGatheringState === "complete" && resolve();
    });
    const headers = { "Content-Type": "application/sdp", ...(key && { Authorization: `Bearer ${key}` }) };
    const answer = await fetch(url, { method: "POST", headers, body: this.peer.localDescription.sdp });
    this.answered = true;
    if (answer.status !== 201) {
      const { error } = await answer.json().catch(() => ({}));
      throw new NoCall(error?.message ?? `The server answered ${answer.status}.`, [401, 403, 503].includes(answer.status));
    }
    await this.peer.setRemoteDescription({ type: "answer", sdp: await answer.text() });
  }

  #end(text, again) {
    if (this.readyState === WebSocket.CLOSED) return;
    if (this.readyState === WebSocket.CONNECTING && text) this.why = { text, again };
    this.readyState = WebSocket.CLOSED;
    this.peer.close();
    this.onclose?.({ code: 1006, reason: "" });
  }
}
