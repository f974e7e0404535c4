// The Runs place: polls while it is visible, reads what the server sends, and keeps what the user chose. The other files
// runs_*.js draw from `blocktrain.runs`.
//
// One request at a time: the next is sent only after the last response, so that requests do not pile up on a slow
// server. Each response says how long to wait before the next. What is wanted is in two hidden boxes (runs_chosen, and
// runs_ask as JSON); what is shown comes as JSON in the attribute data-json of hidden elements.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const TIMEOUT = 60000; // milliseconds to wait for a response
    const REFUSALS = 10; // answers that show another run than the one asked for
    const PARTS = ["table", "curves", "blocks", "events", "other", "saved"];
    const listeners = new Set();
    const data = Object.fromEntries(PARTS.map((part) => [part, null]));
    // What the user chose. `step` null follows the newest one; `prompt` "all" is side by side.
    const state = { other: "", step: null, prompt: 0, file: "", heat: "norms", scale: "lin", view: "loss", smoothing: 0.98 };
    const KEPT = ["step", "prompt", "heat", "scale", "view", "smoothing"];
    const find = (selector) => (typeof gradioApp === "function" ? gradioApp() : document).querySelector(selector);

    const made = (...given) => blocktrain.made(...given);

    const box = (name) => find(`#blocktrain_${name} textarea, #blocktrain_${name} input`);
    const chosen = () => box("runs_chosen")?.value || data.table?.chosen || "";

    function put(name, text) {
        const field = box(name);
        if (field && field.value !== text) {
            field.value = text;
            field.dispatchEvent(new Event("input", { bubbles: true }));
        }
    }

    // --- requests ---------------------------------------------------------------------------------------------------

    let lastRequest = 0;
    let lastBeat = null;
    let urgent = false; // something was asked for: do not wait for the next poll
    const commands = []; // that wait for the response before them
    let inline = false; // the browser may not fetch the samples

    let reading = 0; // until then the box keeps a command, which gradio is about to read

    function wish(command) {
        if (!command && Date.now() < reading) {
            return;
        }
        const wanted = { other: state.other, file: file(), ...(inline ? { inline } : {}), ...(command ? { do: command } : {}) };
        put("runs_ask", JSON.stringify(wanted));
    }

    function poll() {
        const button = find("#blocktrain_runs_tick");
        const place = find("#blocktrain_bar_runs");
        if (!button || !place || document.hidden || place.offsetParent === null) {
            return;
        }
        const beat = find("#blocktrain_runs_beat [data-beat]");
        const now = Date.now();
        const answered = !beat || beat.dataset.beat !== lastBeat;
        const due = answered && (urgent || commands.length || now - lastRequest >= Number(beat ? beat.dataset.next : 1500));
        if (!due && !(now - lastRequest >= TIMEOUT)) {
            return;
        }
        lastBeat = beat ? beat.dataset.beat : null;
        lastRequest = now;
        urgent = false;
        const command = commands.shift();
        wish(command);
        reading = command ? now + 300 : 0;
        setTimeout(() => find(`#blocktrain_runs_${command ? "act" : "tick"}`)?.click(), 30); // when gradio has read the box
    }

    // The next request at once; a command is carried out by it.
    function ask(command) {
        urgent = true;
        if (command) {
            commands.push(command);
        }
        wish();
        poll();
    }

    setInterval(poll, 200);
    document.addEventListener("blocktrain:back", () => (lastBeat = null)); // what was asked was lost with the server

    // --- what was sent ----------------------------------------------------------------------------------------------

    const seen = new Map(); // part -> its element

    function read() {
        let changed = false;
        for (const part of PARTS) {
            const element = document.getElementById(`blocktrain_runs_${part}`)?.querySelector(".blocktrain-data") || null;
            if (seen.get(part) === element) {
                continue;
            }
            seen.set(part, element);
            data[part] = element ? JSON.parse(element.dataset.json) : null;
            changed = true;
        }
        if (changed) {
            changedRun();
            draw();
        }
    }

    let shown = "";
    let kept = null; // what was chosen before the page was loaded

    let returning = false; // to the run that was chosen before the page was loaded

    // Again until it is shown: gradio may be about to fill the box itself, as a part of the same answer, which may come
    // late. It ends when the user chooses another run, when this one is deleted, or when the server keeps to another.
    function comeBack(name) {
        returning = true;
        let answers = 0;
        let last = null; // the answer that was there when it was asked for
        const again = () => {
            const beat = find("#blocktrain_runs_beat [data-beat]")?.dataset.beat ?? null;
            answers += beat === last ? 0 : 1;
            last = beat;
            if (!returning) {
                return;
            }
            if (answers > REFUSALS || !listed(name)) {
                returning = false;
                changedRun();
                return;
            }
            choose(name, true);
            setTimeout(again, 1500);
        };
        setTimeout(again, 300);
    }

    const listed = (name) => data.table?.runs.some((run) => run.name === name);

    // Another run begins with its newest step; after a reload the run and the step that were chosen come back.
    function changedRun() {
        const name = data.table?.chosen || "";
        if (!name || name === shown) {
            return;
        }
        if (kept === null) {
            kept = blocktrain.recall?.("runs") || {};
            Object.assign(state, Object.fromEntries(KEPT.filter((key) => key in kept).map((key) => [key, kept[key]])));
            if (kept.run && kept.run !== name && listed(kept.run)) {
                comeBack(kept.run);
                return;
            }
        }
        if (returning && name !== kept.run) {
            return;
        }
        returning = false;
        if (shown || kept.run !== name) {
            Object.assign(state, { step: null, file: "" });
        }
        shown = name;
        if (state.other === name) {
            state.other = "";
        }
        remember();
    }

    function remember() {
        const chosenNow = Object.fromEntries(KEPT.map((key) => [key, state[key]]));
        blocktrain.remember?.("runs", { ...chosenNow, run: chosen() });
    }

    function draw() {
        for (const listener of listeners) {
            listener();
        }
        wish();
    }

    // --- what the user chooses --------------------------------------------------------------------------------------

    function set(changes) {
        Object.assign(state, changes);
        remember();
        if ("step" in changes) {
            state.file = "";
        }
        if ("other" in changes) {
            ask();
        }
        draw();
    }

    function choose(name, again = false) {
        returning = again;
        if (state.other === name) {
            state.other = "";
        }
        put("runs_chosen", name);
        ask();
        draw();
    }

    // The file that Preview opens: the one chosen in the menu, else the last checkpoint up to the chosen step.
    function file() {
        const files = data.saved?.files || [];
        const stepOf = (name) => Number(/^step (\d+)$/.exec(name)?.[1] ?? Infinity);
        const before = state.step === null ? null : files.find((name) => stepOf(name) <= state.step);
        return files.includes(state.file) ? state.file : before || files[0] || "";
    }

    const last = () => Math.max(data.curves?.last || 0, data.other?.last || 0, 1);
    const step = () => Math.min(state.step ?? last(), last());

    // A sample's address; `side`: reduced to so many pixels.
    function picture(run, sample, side) {
        const own = run.pictures?.[sample.file];
        if (own) {
            return own;
        }
        const query = `${side ? `side=${side}&` : ""}v=${sample.version}`;
        return `./blocktrain/v1/runs/${encodeURIComponent(run.name)}/files/samples/${sample.file}?${query}`;
    }

    // Called where a sample cannot be fetched: from then on they come with the poll.
    function cannotFetch() {
        if (!inline) {
            inline = true;
            ask();
        }
    }

    blocktrain.runs = { data, state, set, choose, chosen, ask, file, last, step, picture, cannotFetch, made, find, listeners };
    (blocktrain.pageChanged ||= new Set()).add(read);
})();
