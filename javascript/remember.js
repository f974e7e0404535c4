// What the page remembers over a reload: `remember(name, value)` and `recall(name)`, for any JSON value. It is kept by the
// host's name and the page's path, for this page in sessionStorage and, as the start of the next new page, in localStorage:
// there a page writes only what it has changed itself, so that two open pages do not overwrite each other. What cannot be
// read is ignored, with a line in the console.
//
// The fields of a place are kept by the server's help (`ui/remembered.py`): after a change its hidden button is clicked, and
// the answer, with the weights of all LoRAs in use, is stored.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const VERSION = 1; // of what is stored, as in ui/remembered.py
    const PAUSE = 400; // milliseconds between two looks at the fields
    const TIMEOUT = 5000; // milliseconds after which the server is asked again, once: gradio drops events while one is handled
    const MAX_LENGTH = 1000000; // characters of all that is stored

    const told = new Set();

    function tell(text) {
        if (!told.has(text)) {
            told.add(text);
            console.info(`blocktrain: ${text}`);
        }
    }

    // The key, or null before the page says on which host it is.
    function key() {
        const host = document.querySelector("#blocktrain [data-host]")?.dataset.host;
        return host === undefined ? null : `blocktrain ${host} ${location.pathname}`;
    }

    // What a storage of this name holds, or null.
    function load(name) {
        try {
            const text = window[name].getItem(key());
            if (!text) {
                return null;
            }
            const stored = JSON.parse(text);
            if (stored?.version !== VERSION || typeof stored.values !== "object" || !stored.values) {
                throw new Error(`it is not of version ${VERSION}`);
            }
            return stored.values;
        } catch (error) {
            tell(`what ${name} holds is ignored: ${error.message}`);
            return null;
        }
    }

    let values = null;
    const changed = new Set(); // names of values that this page has changed

    function all() {
        if (values === null && key() !== null) {
            values = { ...(load("sessionStorage") ?? load("localStorage")) };
        }
        return values || {};
    }

    let waiting = null;

    function write() {
        clearTimeout(waiting);
        waiting = null;
        if (values === null) {
            return;
        }
        store("sessionStorage", values);
        const ours = Object.fromEntries([...changed].map((name) => [name, values[name]]));
        store("localStorage", { ...load("localStorage"), ...ours });
    }

    function store(name, kept) {
        const text = JSON.stringify({ version: VERSION, values: kept });
        if (text.length > MAX_LENGTH) {
            tell(`the page is not remembered in ${name}: ${text.length} characters are too many`);
            return;
        }
        try {
            window[name].setItem(key(), text);
        } catch (error) {
            tell(`the page is not remembered in ${name}: ${error.message}`);
        }
    }

    // Remember a value, in place of the last one of this name; undefined forgets it.
    function remember(name, value) {
        if (key() === null || JSON.stringify(all()[name]) === JSON.stringify(value)) {
            return;
        }
        values[name] = value;
        changed.add(name);
        waiting ??= setTimeout(write, 200);
    }

    // The value that was remembered, before or since the page was loaded; undefined if there is none.
    function recall(name) {
        return all()[name];
    }

    window.addEventListener("pagehide", () => waiting !== null && write());

    // --- fields that the server helps to keep -------------------------------------------------------------------------

    const ready = new Set(); // places whose stored values are back
    const kept = new Map(); // place -> what its fields were when they were last kept
    const seen = new Map(); // place -> what its fields were at the last look
    // place -> until the server has answered: what its fields were when it was asked, when, whether for the second time, and
    // whether other fields were asked for before, to which the answer may be
    const asked = new Map();

    blocktrain.components ||= new Map();
    blocktrain.components.set("blocktrain-kept", (element) => {
        const place = element.closest("[id^=blocktrain_kept_]").id.replace("blocktrain_kept_", "");
        if (element.dataset.kept) {
            const last = asked.get(place);
            kept.set(place, last?.other ? null : last?.fields);
            asked.delete(place);
            remember(place, JSON.parse(element.dataset.kept));
        } else {
            if (element.dataset.problems) {
                tell(`not all of ${place} was brought back: ${element.dataset.problems}`);
            }
            ready.add(place);
        }
    });

    // All that a user sets in a place, as one text.
    function fields(place) {
        const panel = document.getElementById(`blocktrain_place_${place}`);
        const inputs = panel ? panel.querySelectorAll("input:not([type=file]), textarea") : [];
        return Array.from(inputs, (input) => (/checkbox|radio/.test(input.type) ? input.checked : input.value)).join("\n");
    }

    setInterval(() => {
        for (const place of ready) {
            const now = fields(place);
            const still = seen.get(place) === now;
            seen.set(place, now);
            const last = asked.get(place);
            const again = last?.fields === now;
            // One at a time: an answer is for what was asked. Nor for ever: gradio shows an error each time it refuses a field.
            const waits = Date.now() - last?.time < TIMEOUT || (again && last.again);
            if (still && kept.get(place) !== now && !waits) {
                asked.set(place, { fields: now, time: Date.now(), again, other: Boolean(last && (!again || last.other)) });
                document.querySelector(`button#blocktrain_keep_${place}`)?.click();
            }
        }
    }, PAUSE);
    document.addEventListener("blocktrain:back", () => asked.clear()); // what was asked was lost with the server

    // --- clicks before the values are back ----------------------------------------------------------------------------

    const PLACES = ["preview", "analyse", "train"]; // that have something to bring back
    const FILLING = ["dataset_use_now", "dataset_weigh_now", "dataset_probe_now", "runs_again", "runs_preview"]; // those places
    const HELD = [...PLACES.map((name) => `#blocktrain_place_${name} button`), ...FILLING.map((name) => `#blocktrain_${name}`)]
        .map((selector) => `#blocktrain ${selector}`).join(", ");
    const PATIENCE = 60000; // milliseconds after which a click goes on without them
    const held = new Map(); // button -> when it was clicked

    // A button acts on the values of its place, and on the LoRAs in use, which are Preview's. One that fills another place
    // would be undone by what is brought back there.
    function back(button) {
        const place = button.closest("[id^=blocktrain_place_]").id.replace("blocktrain_place_", "");
        const needed = PLACES.includes(place) ? [place, "preview"] : PLACES;
        return needed.every((name) => ready.has(name) || !document.getElementById(`blocktrain_kept_${name}`));
    }

    function release() {
        for (const [button, since] of held) {
            if (back(button) || Date.now() - since > PATIENCE) {
                held.delete(button);
                button.classList.remove("blocktrain-held");
                button.dispatchEvent(Object.assign(new MouseEvent("click", { bubbles: true }), { released: true }));
            }
        }
        if (held.size) {
            setTimeout(release, 50);
        }
    }

    // A button of gradio's acts on all that a user has set, and the server has none of it yet: the click waits for it. Not
    // that of a file, which a browser lets a user choose only at once.
    document.addEventListener(
        "click",
        (event) => {
            const button = event.target.closest?.(HELD);
            const waits = button?.id && !button.id.startsWith("blocktrain_keep_") && !event.released && !back(button);
            if (!waits || button.previousElementSibling?.matches("input[type=file]")) {
                return;
            }
            event.stopImmediatePropagation();
            event.preventDefault();
            button.classList.add("blocktrain-held");
            held.set(button, Date.now());
            release();
        },
        true
    );

    // --- the place ----------------------------------------------------------------------------------------------------

    let returned = false;

    function arrived(place) {
        if (!returned && place) {
            returned = true;
            const last = recall("place");
            if (last && last !== place) {
                blocktrain.go?.(last);
                return;
            }
        }
        remember("place", place || undefined);
    }

    document.addEventListener("blocktrain:place", ({ detail }) => arrived(detail));
    setTimeout(() => returned || (blocktrain.place?.() && arrived(blocktrain.place()))); // the other file came first

    const restored = (place) => ready.has(place);
    Object.assign(blocktrain, { remember, recall, restored });
})();
