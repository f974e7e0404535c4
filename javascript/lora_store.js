// What the page knows of the LoRA files, and which are in use: shared by lora_rows.js and lora_library.js.
//
// The list is asked for while gradio still builds the page, and again while the server reads headers. Where the API does
// not answer, and after Refresh, it comes in `.blocktrain-lora-data` (ui/lora_data.py). The LoRAs in use are one JSON text in the box `blocktrain_loras`:
// a change here goes to the server as typed text, and a change by the server is seen by watching the box's value.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const ASK_EVERY = 700; // ms, while headers are being read
    const PATIENCE = 10000; // ms without the weights of a LoRA
    const ASK_AGAIN = 2500; // ms without an answer about a card
    const native = Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value");
    const listeners = new Set();

    const store = {
        files: new Map(), // by key, in the order of the folders
        folders: [],
        total: 0,
        complete: false,
        received: false,
        architecture: "", // of the loaded model; "" without one
        model: "", // its title
        loras: [], // {key, strength, muted}, and weights and changes where they are known
        active: null,
    };
    let revision = 0;
    let following = null; // the next question for changes
    let loaded = false; // whether the page's own first answer has come
    let asked = 0;
    const open = {}; // questions without an answer yet
    let again = null;

    function tell(what) {
        listeners.forEach((call) => call(what));
    }

    // --- the files ------------------------------------------------------------------------------------------------

    const NAMES = ["key", "time", "preview", "known", "architecture", "title", "algorithm", "rank", "blocks", "ours"];

    function fileOf(row) {
        const file = {};
        NAMES.forEach((name, index) => (file[name] = row[index]));
        file.problem = row[10] || "";
        file.foreign = Boolean(row[11]); // for another model than those of this extension
        const slash = file.key.lastIndexOf("/");
        file.name = file.key.slice(slash + 1);
        file.folder = file.key.slice(0, Math.max(slash, 0));
        file.words = [file.key, file.title, file.algorithm, file.rank, row[12] || ""].join(" ").toLowerCase();
        return file;
    }

    function take(data) {
        answered("since", data.since);
        if (data.all) {
            store.files = new Map();
        } else if (data.since !== revision) {
            return; // an answer that came late
        }
        data.files.forEach((row) => store.files.set(row[0], fileOf(row)));
        revision = data.revision;
        Object.assign(store, { folders: data.folders, complete: data.complete, received: true });
        tell("files");
        clearTimeout(following);
        if (!data.complete) {
            following = setTimeout(follow, ASK_EVERY);
        }
    }

    // Asks for what has changed since the last answer, at first for all.
    async function follow() {
        try {
            const answer = await fetch(`./blocktrain/v1/loras/listing?since=${revision}`);
            if (!answer.ok) {
                throw new Error(answer.statusText);
            }
            take(await answer.json());
        } catch {
            if (store.received) {
                ask({ since: revision });
            } // else the page's own answer is on its way
        }
    }

    function box(name) {
        return document.querySelector(`#blocktrain_${name} textarea, #blocktrain_${name} input`);
    }

    function put(target, text) {
        native.set.call(target, text);
        target.dispatchEvent(new Event("input", { bubbles: true }));
    }

    // gradio keeps the last of several events that come while one is handled: each text has all the open questions.
    function ask(question) {
        const target = box("lora_ask");
        Object.assign(open, question);
        if (target) {
            put(target, JSON.stringify({ ...open, number: ++asked }));
        }
        clearTimeout(again);
        again = setTimeout(() => open.card && ask({}), ASK_AGAIN);
    }

    function answered(name, value) {
        if (open[name] === value) {
            delete open[name];
        }
    }

    // Why a file cannot be used with the loaded model; "" if it can.
    function why(file) {
        if (!file || !file.known) {
            return "";
        }
        if (file.problem) {
            return file.problem;
        }
        const other = store.architecture && file.architecture !== store.architecture;
        return other ? `${file.title}: not for this model` : "";
    }

    // --- the LoRAs in use -----------------------------------------------------------------------------------------

    let turn = 0; // counts the changes here; an answer of the server names the one that it answers
    let awaited = null; // { turn, timer } of the change whose answer brings the weights of another LoRA
    const waiting = []; // to be called after it

    function text() {
        return JSON.stringify({ loras: store.loras, active: store.active, turn });
    }

    // Until the server has sent the weights of the LoRA that has become active, the sliders show those of the last one,
    // and what is set there would be lost: they take nothing.
    function awaitWeights() {
        clearTimeout(awaited?.timer);
        awaited = { turn, timer: setTimeout(() => shown(turn), PATIENCE) };
        hold(true);
    }

    function shown(answered) {
        if (awaited && answered >= awaited.turn) {
            clearTimeout(awaited.timer);
            awaited = null;
            hold(false);
            waiting.splice(0).forEach((call) => call());
        }
    }

    function hold(held) {
        const section = document.getElementById("blocktrain_section_weights");
        if (section) {
            section.inert = held;
        }
    }

    // Calls a function once the sliders show the weights of the active LoRA.
    const whenShown = (call) => (awaited ? waiting.push(call) : call());

    function read(value) {
        if (!value) {
            return;
        }
        const data = JSON.parse(value);
        store.loras = data.loras;
        store.active = data.active;
        tell("loras");
    }

    function watch(target) {
        if (!target || blocktrain.initialised.has(target)) {
            return;
        }
        blocktrain.initialised.add(target);
        Object.defineProperty(target, "value", {
            configurable: true,
            get() {
                return native.get.call(this);
            },
            set(value) {
                native.set.call(this, value);
                if (value && value !== text()) {
                    read(value);
                }
            },
        });
        read(target.value);
    }

    // The weights on the sliders, and those by kind of layer and over the steps.
    function weighed() {
        const sliders = document.querySelectorAll("#blocktrain [id^=blocktrain_w_] input[type=range]");
        const name = (slider) => slider.closest("[id^=blocktrain_w_]").id.replace("blocktrain_w_", "");
        const changes = document.querySelector("#blocktrain_weight_changes :is(textarea, input)")?.value || "";
        return { weights: Object.fromEntries(Array.from(sliders, (slider) => [name(slider), Number(slider.value)])), changes };
    }

    // Changes the list in the page, and tells the server. The weights of the LoRA that is or was active go along: the server
    // keeps them, but forgets all when it begins anew, or where the page has slept for an hour.
    function change(loras, active) {
        const before = store.active;
        store.loras = loras.map((one) => (one.key === before && !awaited ? { ...one, ...weighed() } : one));
        store.active = loras.some((one) => one.key === active) ? active : loras.length ? loras.at(-1).key : null;
        turn += 1;
        if (store.active !== before) {
            awaitWeights();
        }
        tell("loras");
        put(box("loras"), text());
    }

    function add(key) {
        if (!store.loras.some((one) => one.key === key)) {
            blocktrain.remember?.("recent-loras", [key, ...recent().filter((other) => other !== key)].slice(0, 60));
            change([...store.loras, { key, strength: 1, muted: false }], key);
        }
    }

    // Keys of the LoRAs that were added last in this browser, the latest first.
    function recent() {
        const keys = blocktrain.recall?.("recent-loras");
        return Array.isArray(keys) ? keys : [];
    }

    const remove = (key) => change(store.loras.filter((one) => one.key !== key), store.active);
    const activate = (key) => change(store.loras, key);
    const set = (key, values) =>
        change(store.loras.map((one) => (one.key === key ? { ...one, ...values } : one)), store.active);
    const has = (key) => store.loras.some((one) => one.key === key);

    // --- thumbnails -----------------------------------------------------------------------------------------------

    const HUES = 12;

    // The picture beside a file or, without one, its initials on a colour that follows from its name.
    function thumbnail(key, file) {
        const frame = document.createElement("span");
        frame.className = "blocktrain-thumb";
        frame.setAttribute("aria-hidden", "true");
        const name = (file?.name || key.split("/").at(-1)).replace(/[^\p{L}\p{N}]+/gu, " ").trim();
        frame.textContent = name.split(" ").slice(0, 2).map((word) => [...word][0] || "").join("").toUpperCase();
        frame.dataset.hue = [...key].reduce((sum, letter) => sum + letter.codePointAt(0), 0) % HUES;
        if (file?.preview) {
            const image = document.createElement("img");
            image.alt = "";
            image.loading = "lazy";
            image.decoding = "async";
            image.src = `./blocktrain/v1/loras/thumbnail?name=${encodeURIComponent(key)}`;
            image.addEventListener("error", () => image.remove());
            frame.append(image);
        }
        return frame;
    }

    // --- set-up ---------------------------------------------------------------------------------------------------

    blocktrain.components ||= new Map();
    blocktrain.pageChanged ||= new Set();
    blocktrain.components.set("blocktrain-lora-data", (element) => {
        const data = JSON.parse(element.dataset.json);
        if (loaded || !store.received || data.revision > revision) {
            take(data);
        }
        loaded = true;
    });
    blocktrain.components.set("blocktrain-lora-model", (element) => {
        store.architecture = element.dataset.architecture;
        store.model = element.dataset.title;
        tell("files");
    });
    blocktrain.components.set("blocktrain-lora-turn", (element) => shown(Number(element.dataset.turn)));
    blocktrain.pageChanged.add(() => watch(box("loras")));
    follow();
    blocktrain.loras = {
        store, ask, answered, why, add, remove, activate, set, has, recent, thumbnail, whenShown,
        listen: (call) => listeners.add(call),
    };
})();
