/** Tools that a model may call: declared with JSON schemas, and run on this page, without a network. */

const LONGEST_MINUTES = 24 * 60;
const REGIONS = ["Europe", "America", "Asia", "Africa", "Australia", "Pacific", "Atlantic", "Indian"];
/** Cities that are not the name of a time zone, by zone. */
const CITIES = {
  "Africa/Casablanca": ["Rabat", "Marrakesh"],
  "Africa/Johannesburg": ["Cape Town", "Pretoria", "Durban"],
  "America/Chicago": ["Houston", "Dallas", "Austin", "New Orleans", "Minneapolis"],
  "America/Jamaica": ["Kingston"],
  "America/Los_Angeles": ["San Francisco", "Seattle", "San Diego", "Las Vegas", "Portland"],
  "America/New_York": ["Washington", "Washington DC", "Boston", "Miami", "Philadelphia", "Atlanta"],
  "America/Sao_Paulo": ["Brasilia", "Rio de Janeiro", "Rio"],
  "America/Toronto": ["Ottawa", "Montreal"],
  "Asia/Dubai": ["Abu Dhabi"],
  "Asia/Ho_Chi_Minh": ["Hanoi"],
  "Asia/Kolkata": ["New Delhi", "Delhi", "Mumbai", "Bangalore", "Chennai"],
  "Asia/Karachi": ["Islamabad", "Lahore"],
  "Asia/Shanghai": ["Beijing", "Shenzhen", "Guangzhou"],
  "Asia/Tokyo": ["Osaka", "Kyoto"],
  "Australia/Sydney": ["Canberra"],
  "Europe/Berlin": ["Munich", "Hamburg", "Cologne", "Frankfurt", "Bonn"],
  "Europe/Istanbul": ["Ankara"],
  "Europe/Lisbon": ["Porto"],
  "Europe/London": ["Edinburgh", "Manchester", "Oxford", "Cambridge"],
  "Europe/Madrid": ["Barcelona", "Seville", "Valencia"],
  "Europe/Moscow": ["Saint Petersburg", "St Petersburg"],
  "Europe/Paris": ["Marseille", "Lyon", "Nice"],
  "Europe/Rome": ["Milan", "Naples", "Venice", "Florence"],
  "Europe/Warsaw": ["Krakow"],
  "Europe/Zurich": ["Bern", "Geneva", "Basel"],
  "Pacific/Auckland": ["Wellington"],
};
const ZONES = new Map(Object.entries(CITIES).flatMap(([zone, cities]) => cities.map((city) => [city.toLowerCase(), zone])));

/** A tool cannot do what it was asked for; the model reads the message, and may say it. */
class ToolError extends Error {}

/** "Bogotá, Colombia" -> "bogota". */
function plainName(city) {
  const [name] = String(city).normalize("NFD").replace(/\p{M}/gu, "").split(",");
  return name.replace(/[^A-Za-z]+/g, " ").trim().toLowerCase();
}

/** The clock of a city at a moment. @throws {ToolError} no such city is known. */
function clock(city, now) {
  const name = plainName(city);
  const zones = [ZONES.get(name), ...REGIONS.map((region) => `${region}/${name.replaceAll(" ", "_")}`)];
  for (const timeZone of zones.filter(Boolean)) {
    try {
      const format = new Intl.DateTimeFormat("en-US", { timeZone, hour: "numeric", minute: "2-digit" });
      return format.format(now).replace(/\s/g, " ");
    } catch (error) {
      if (!(error instanceof RangeError)) throw error; // no such zone: the next one
    }
  }
  throw new ToolError(name ? `The time in ${city} is not known here.` : "That needs a city.");
}

const OPERATIONS = { plus: (a, b) => a + b, minus: (a, b) => a - b, times: (a, b) => a * b };

/** Whole numbers, which are exact up to 2^53: a longer one is rounded when JSON is read, to one that is refused. @throws {ToolError} */
function calculate(first, operation, second) {
  const given = [first, second];
  if (!given.every((number) => typeof number === "number")) throw new ToolError("That needs two numbers.");
  if (!Object.hasOwn(OPERATIONS, operation)) throw new ToolError("That works with plus, minus and times only.");
  const all = [...given, OPERATIONS[operation](first, second)];
  if (all.some((number) => Math.abs(number) > Number.MAX_SAFE_INTEGER)) throw new ToolError("That has too many digits.");
  if (!given.every(Number.isInteger)) throw new ToolError("That works with whole numbers only.");
  return all[2];
}

function startTimer(timers, minutes) {
  if (!(minutes > 0 && minutes <= LONGEST_MINUTES)) throw new ToolError("A timer here runs for up to 24 hours.");
  if (timers.full) throw new ToolError("There are too many timers. Cancel or dismiss one first.");
  timers.add(minutes);
}

function switchLight(light, state) {
  if (!["on", "off"].includes(state)) throw new ToolError("A light is on or off.");
  light(state === "on");
}

const schema = (properties) => ({ type: "object", properties, required: Object.keys(properties) });

export class Toolbox {
  /**
   * @param {import("./timers.js").Timers} timers
   * @param {(on: boolean) => void} light switches this page to its light or dark theme.
   */
  constructor(timers, light) {
    const number = { type: "integer" };
    const text = { type: "string" };
    this.tools = {
      get_time: {
        description: "The time in a city.",
        parameters: schema({ city: text }),
        run: ({ city }) => ({ time: clock(city, new Date()) }),
      },
      set_timer: {
        description: "Starts a timer.",
        parameters: schema({ minutes: number }),
        run: ({ minutes }) => (startTimer(timers, minutes), { state: "started" }),
      },
      calculate: {
        description: "Computes with two numbers.",
        parameters: schema({ first: number, operation: { ...text, enum: Object.keys(OPERATIONS) }, second: number }),
        run: ({ first, operation, second }) => ({ result: calculate(first, operation, second) }),
      },
      set_light: {
        description: "Switches the light of a room: here, of this page.",
        parameters: schema({ room: text, state: { ...text, enum: ["on", "off"] } }),
        run: ({ state }) => (switchLight(light, state), { state }),
      },
    };
  }

  /** The tools as a session declares them. */
  get declared() {
    return Object.entries(this.tools).map(([name, { description, parameters }]) => ({ type: "function", name, description, parameters }));
  }

  /**
   * Run a call.
   * @param {string} name @param {string} given its arguments in JSON.
   * @returns {Promise<object>} what it returns; if it fails, `{error}` in words for the model.
   */
  async run(name, given) {
    try {
      if (!Object.hasOwn(this.tools, name)) throw new ToolError(`There is no tool ${name} here.`);
      return await this.tools[name].run(JSON.parse(given));
    } catch (error) {
      return { error: error instanceof ToolError ? error.message : "The tool failed." };
    }
  }
}
