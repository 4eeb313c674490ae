/** A call (WebRTC) with the face of a WebSocket: events go over its data channel, sound over its tracks. */

const GATHER_MS = 1000; // for addresses; the server answers to those that have proved themselves, so none is waited for longer

/**
 * Besides those of a WebSocket, its `onclose` gets `status` and `error` if the server has refused the call, and `noCall`
 * if none can be made here, in words.
 */
export class CallSocket {
  /**
   * @param {URL} url of the endpoint of calls. @param {Record<string, string>} headers with the API key.
   * @param {(stream: MediaStream) => Promise<void>} listen plays the voice of the server.
   */
  constructor(url, headers, listen) {
    this.readyState = WebSocket.CONNECTING;
    this.onopen = this.onmessage = this.onclose = null;
    this.onanswer = null; // the server has answered the request, whatever becomes of the sound
    this.place = null; // of the call at the server
    this.request = new AbortController();
    this.peer = new RTCPeerConnection();
    this.sender = this.peer.addTransceiver("audio", { direction: "sendrecv" }).sender;
    this.channel = this.peer.createDataChannel("oai-events");
    const opened = new Promise((resolve) => (this.channel.onopen = resolve));
    const heard = this.#voice().then(listen);
    const ready = Promise.all([opened, heard]);
    ready.then(() => this.#begin(), ({ name }) => this.#end({ noCall: `Its sound cannot be played here (${name}).` }));
    this.channel.onmessage = ({ data }) => ready.then(() => this.onmessage?.({ data }), () => {}); // nothing before it can be heard
    this.channel.onclose = () => this.#end({});
    this.peer.onconnectionstatechange = () => this.peer.connectionState === "failed" && this.#end({ noCall: "Its sound does not get through the network." });
    this.#call(url, headers).catch(({ name }) => this.#end({ noCall: `The browser cannot make one (${name}).` }));
  }

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
    this.#end({});
  }

  /** @returns {Promise<MediaStream>} what the server sends. */
  #voice() {
    return new Promise((resolve) => (this.peer.ontrack = ({ streams: [stream], track }) => resolve(stream ?? new MediaStream([track]))));
  }

  async #call(url, headers) {
    await this.peer.setLocalDescription();
    await new Promise((resolve) => {
      setTimeout(resolve, GATHER_MS);
      this.peer.onicegatheringstatechange = () => this.peer.iceGatheringState === "complete" && resolve();
    });
    const body = this.peer.localDescription.sdp;
    const request = { method: "POST", headers: { ...headers, "Content-Type": "application/sdp" }, body, signal: this.request.signal };
    const answer = await fetch(url, request).catch(() => null);
    if (!answer) return this.#end({ unanswered: true });
    this.onanswer?.();
    if (answer.status !== 201) {
      const { error } = await answer.json().catch(() => ({}));
      return this.#end({ status: answer.status, error });
    }
    this.place = { url: `${url}/${answer.headers.get("Location")?.split("/").pop()}/hangup`, headers };
    await this.peer.setRemoteDescription({ type: "answer", sdp: await answer.text() });
  }

  #begin() {
    if (this.readyState !== WebSocket.CONNECTING) return;
    this.readyState = WebSocket.OPEN;
    this.onopen?.();
  }

  #end(why) {
    if (this.readyState === WebSocket.CLOSED) return;
    const wasOpen = this.readyState === WebSocket.OPEN;
    this.readyState = WebSocket.CLOSED;
    this.request.abort();
    const alone = this.place && this.peer.connectionState !== "connected"; // the server would wait for us
    this.peer.close();
    if (alone && !wasOpen) fetch(this.place.url, { method: "POST", headers: this.place.headers }).catch(() => {});
    this.onclose?.({ code: 1006, reason: "", ...(wasOpen ? {} : why) });
  }
}
