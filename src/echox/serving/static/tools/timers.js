/** Timers of the page: they count down where the user sees them, and belong to no session, so a lost one ends none. */

const MOST = 5;
const STEP_MS = 200;
const words = (minutes) => `${minutes} ${minutes === 1 ? "minute" : "minutes"}`;

/** 75 -> "1:15", 3675 -> "1:01:15". */
function clockOf(seconds) {
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  const shown = parts[0] ? parts : parts.slice(1);
  return shown.map((part, place) => (place ? String(part).padStart(2, "0") : part)).join(":");
}

export class Timers {
  /**
   * @param {HTMLElement} place a list. @param {() => void} ring @param {(text: string) => void} announce to screen readers.
   */
  constructor(place, ring, announce) {
    Object.assign(this, { place, ring, announce });
    this.running = new Map(); // row -> {minutes, endsAt}: by the clock on the wall, as a sleeping machine stops others
    this.ticking = 0;
  }

  /** Whether no more can be started; those that are over stay until they are dismissed, and count. */
  get full() {
    return this.place.children.length >= MOST;
  }

  add(minutes) {
    const row = document.createElement("li");
    const label = Object.assign(document.createElement("span"), { textContent: words(minutes) });
    const left = Object.assign(document.createElement("b"), { role: "timer" });
    const end = Object.assign(document.createElement("button"), { type: "button", textContent: "Cancel" });
    end.setAttribute("aria-label", `Cancel the timer of ${words(minutes)}`);
    end.onclick = () => this.#remove(row);
    row.append(label, left, end);
    this.place.append(row);
    this.running.set(row, { minutes, endsAt: Date.now() + minutes * 60_000 });
    this.ticking ||= setInterval(() => this.#tick(), STEP_MS);
    this.#tick();
  }

  #tick() {
    for (const [row, { minutes, endsAt }] of this.running) {
      const seconds = Math.ceil((endsAt - Date.now()) / 1000);
      if (seconds > 0) row.querySelector("b").textContent = clockOf(seconds);
      else this.#over(row, minutes);
    }
  }

  #over(row, minutes) {
    this.#stop(row);
    row.dataset.over = "";
    row.querySelector("b").textContent = "Time is up";
    const end = row.querySelector("button");
    end.textContent = "Dismiss";
    end.setAttribute("aria-label", `Dismiss the timer of ${words(minutes)}`);
    this.ring();
    this.announce(`The timer of ${words(minutes)} is over.`);
  }

  #remove(row) {
    this.#stop(row);
    row.remove();
  }

  #stop(row) {
    this.running.delete(row);
    if (this.running.size) return;
    clearInterval(this.ticking);
    this.ticking = 0;
  }
}
