// What the place Pictures shows: the sets, the pictures of the one that is open, which of them are chosen, and captions that
// are typed but not saved. The other files dataset_*.js draw from `blocktrain.pictureSets`, and change it by its functions.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const FLAGS = ["no caption", "small", "odd aspect", "duplicate", "masked", "problem", "unsaved"];
    const KEPT = ["set", "view", "size", "mode", "current"];
    const HASHING = 2500; // milliseconds to the next look for duplicates
    const VIEWS = ["grid", "buckets", "list"];

    const state = {
        sets: null, // before the first answer
        set: "", // the key of the open one
        listing: null,
        worth: null,
        retest: "", // why Train's weights are to be found again for this set
        undo: null, // the newest change of the set, which undo takes back
        chosen: new Set(), // keys of pictures
        current: "", // the one that is large
        anchor: "", // where a range begins
        flags: new Set(), // filters
        tags: new Set(),
        view: "grid",
        size: 2, // 1 to 3
        mode: "crop", // crop, plain or mask
        drafts: {}, // captions that are not saved: by set, by picture, {text, stamp of the caption that was changed}
    };
    const dataset = (blocktrain.pictureSets ||= {});
    const listeners = (dataset.listeners ||= new Set());

    // --- what is open -----------------------------------------------------------------------------------------------

    const openSet = () => (state.sets || []).find((one) => one.set === state.set);
    const pictures = () => state.listing?.pictures || [];
    let byKey = new Map();
    const picture = (key = state.current) => byKey.get(key);
    const drafts = () => state.drafts[state.set] || {};
    // The caption as it would be saved now: what is typed, else what the file has.
    const caption = (one) => drafts()[one.picture]?.text ?? one.caption ?? "";
    const isDraft = (one) => one.picture in drafts();
    const unsaved = () => Object.keys(drafts()).filter((key) => byKey.has(key));

    // The tags of a text; training reads its first line.
    function tagsOf(text) {
        return text.split("\n")[0].split(state.listing?.separator || ",").map((tag) => tag.trim()).filter(Boolean);
    }

    function withTags(text, tags) {
        const [, ...others] = text.split("\n");
        return [tags.join(`${state.listing?.separator || ","} `), ...others].join("\n");
    }

    // --- filters ----------------------------------------------------------------------------------------------------

    function hasFlag(one, flag) {
        return flag === "unsaved" ? isDraft(one) : flag === "masked" ? Boolean(one.mask) : flag === "problem" ? Boolean(one.problem) : one.flags.includes(flag);
    }

    // Pictures with one of the flags and all of the tags.
    function fits(one) {
        const flagged = !state.flags.size || [...state.flags].some((flag) => hasFlag(one, flag));
        return flagged && (!state.tags.size || [...state.tags].every((tag) => one.tags.includes(tag)));
    }

    const shown = () => pictures().filter(fits);

    function toggle(filter, name) {
        state[filter].has(name) ? state[filter].delete(name) : state[filter].add(name);
        filtered();
    }

    function clearFilters() {
        state.flags.clear();
        state.tags.clear();
        filtered();
    }

    // What is not shown is not chosen either: a change to the chosen ones changes nothing that is out of sight.
    function filtered() {
        const all = shown();
        const visible = new Set(all.map((one) => one.picture));
        state.chosen = new Set([...state.chosen].filter((key) => visible.has(key)));
        if (!visible.has(state.current) && all.length) {
            state.current = all[0].picture;
        }
        if (!state.chosen.size && state.current) {
            state.chosen.add(state.current);
        }
        tell("filter");
    }

    // --- choosing ---------------------------------------------------------------------------------------------------

    // How: "one", "toggle" or "range" (from where the last one was chosen).
    function choose(key, how = "one") {
        if (how === "toggle") {
            state.chosen.has(key) ? state.chosen.delete(key) : state.chosen.add(key);
            state.anchor = key;
        } else if (how === "range" && state.anchor) {
            const keys = shown().map((one) => one.picture);
            const [from, to] = [keys.indexOf(state.anchor), keys.indexOf(key)].sort((a, b) => a - b);
            state.chosen = new Set(keys.slice(Math.max(0, from), to + 1));
        } else {
            state.chosen = new Set([key]);
            state.anchor = key;
        }
        state.current = key;
        tell("chosen");
    }

    function chooseAll(all) {
        state.chosen = new Set(all ? shown().map((one) => one.picture) : [state.current].filter(Boolean));
        tell("chosen");
    }

    // The picture so many places on; the last one stays.
    function step(by) {
        const keys = shown().map((one) => one.picture);
        const to = Math.min(keys.length - 1, Math.max(0, keys.indexOf(state.current) + by));
        if (keys[to]) {
            choose(keys[to]);
        }
        return keys[to];
    }

    // --- the server's answers ---------------------------------------------------------------------------------------

    // The size and batch of the run in Train, for buckets and steps.
    function forRun() {
        const of = (name) => Number(document.querySelector(`#blocktrain_train_${name} input`)?.value);
        const [size, batch] = [of("dataset_size"), of("batch")];
        return { size: size >= 64 && size % 8 === 0 ? size : null, batch: batch >= 1 ? Math.round(batch) : 1 };
    }

    // The weights of the run in Train, as text.
    const trainWeights = () => document.querySelector("#blocktrain_train_network_weights :is(textarea, input)")?.value.trim() || "";

    async function loadSets() {
        state.sets = (await dataset.ask("sets")).sets;
        if (state.set && !openSet()) {
            state.set = "";
        }
        tell("sets");
    }

    // The pictures of the open set, as they are now on the disk.
    async function reload() {
        const set = state.set;
        if (!set) {
            take(null, null);
            return;
        }
        const answer = await dataset.ask("listing", { set, ...forRun() });
        if (state.set === set) {
            take(answer.listing, answer.undo);
            const { worth, retest } = await dataset.ask("worth", { set, ...forRun(), weights: trainWeights() });
            if (state.set === set) {
                Object.assign(state, { worth, retest });
                tell("worth");
            }
            if (state.set === set && pictures().some((one) => one.mask && one.bucket && one.share === null)) {
                const again = await dataset.ask("listing", { set, ...forRun() }); // the shares are measured by now
                state.set === set && take(again.listing, again.undo);
            }
        }
    }

    let hashing = null;
    let hashed = -1; // pictures that were looked at for duplicates at the last look

    function take(listing, undo) {
        state.listing = listing;
        state.undo = undo;
        state.worth = listing ? state.worth : null;
        byKey = new Map(pictures().map((one) => [one.picture, one]));
        if (listing) {
            state.sets = (state.sets || []).map((one) => (one.set === listing.set.set ? listing.set : one));
        }
        const known = new Set(pictures().flatMap((one) => one.tags));
        state.tags = new Set([...state.tags].filter((tag) => known.has(tag)));
        state.chosen = new Set([...state.chosen].filter((key) => byKey.has(key)));
        if (!byKey.has(state.current)) {
            state.current = pictures()[0]?.picture || "";
        }
        if (!state.chosen.size && state.current) {
            state.chosen.add(state.current);
        }
        clearTimeout(hashing);
        const going = listing && listing.hashed > hashed; // a picture that cannot be read is never looked at
        hashed = listing && listing.hashed < pictures().length ? listing.hashed : -1;
        if (going && hashed >= 0) {
            hashing = setTimeout(() => visible() && dataset.attempt(reload), HASHING);
        }
        tell("listing");
    }

    const visible = () => document.getElementById("blocktrain_bar_pictures")?.offsetParent;

    async function open(key) {
        if (key !== state.set) {
            hashed = -1;
            Object.assign(state, { set: key, listing: null, worth: null, undo: null, current: "", anchor: "" });
            state.chosen.clear();
            state.flags.clear();
            state.tags.clear();
            tell("set");
        }
        await reload();
    }

    // --- captions ---------------------------------------------------------------------------------------------------

    function draft(key, text) {
        const one = picture(key);
        const mine = { ...drafts() };
        if (one && text === (one.caption ?? "")) {
            delete mine[key];
        } else {
            mine[key] = { text, stamp: mine[key]?.stamp ?? one.stamp };
        }
        state.drafts = { ...state.drafts, [state.set]: mine };
        tell("draft");
    }

    // Save what is typed for a picture. What changed on the disk meanwhile stays there, and what is typed stays typed, unless
    // it is to be saved `over` that.
    async function save(key, over = false) {
        const [set, one, typed] = [state.set, picture(key), drafts()[key]];
        if (!one || !typed) {
            return null;
        }
        const { text } = typed;
        const { change } = await dataset.ask("caption", { set, picture: key, text, stamp: over ? one.stamp : typed.stamp });
        const saved = change.edits[0];
        if (saved && state.set === set) {
            Object.assign(one, { caption: saved.after, stamp: saved.new_stamp, tags: tagsOf(saved.after || "") });
            one.flags = one.flags.filter((flag) => flag !== "no caption");
        }
        const mine = { ...state.drafts[set] };
        if (mine[key]?.text === text) {
            delete mine[key];
        } else if (mine[key] && saved) {
            mine[key] = { text: mine[key].text, stamp: saved.new_stamp }; // typed on meanwhile
        }
        state.drafts = { ...state.drafts, [set]: mine };
        tell("draft");
        return change;
    }

    // --- telling ----------------------------------------------------------------------------------------------------

    function tell(what) {
        remember();
        listeners.forEach((call) => call(what));
    }

    function set(changes) {
        Object.assign(state, changes);
        tell("view");
    }

    let recalled = false;

    function recall() {
        if (recalled) {
            return;
        }
        recalled = true;
        const kept = blocktrain.recall?.("dataset") || {};
        for (const name of KEPT) {
            if (typeof kept[name] === typeof state[name]) {
                state[name] = kept[name];
            }
        }
        state.view = VIEWS.includes(state.view) ? state.view : "grid";
        const typed = blocktrain.recall?.("dataset-drafts");
        state.drafts = typed && typeof typed === "object" ? typed : {};
        // What an older page or anything else has stored there is left out.
        for (const [of, mine] of Object.entries(state.drafts)) {
            const good = Object.entries(mine || {}).filter(([, one]) => typeof one?.text === "string" && typeof one.stamp === "string");
            state.drafts[of] = Object.fromEntries(good);
        }
    }

    function remember() {
        if (recalled) {
            blocktrain.remember?.("dataset", Object.fromEntries(KEPT.map((name) => [name, state[name]])));
            const typed = Object.entries(state.drafts).filter(([, mine]) => Object.keys(mine).length);
            blocktrain.remember?.("dataset-drafts", typed.length ? Object.fromEntries(typed) : undefined);
        }
    }

    // The place is shown: the sets are read, and the one that was open last.
    async function arrive() {
        recall();
        await loadSets();
        if (!state.set) {
            state.set = state.sets.find((one) => !one.problem)?.set || "";
        }
        await reload();
    }

    document.addEventListener("blocktrain:place", ({ detail }) => detail === "pictures" && dataset.attempt(arrive));
    setTimeout(() => blocktrain.place?.() === "pictures" && state.sets === null && dataset.attempt(arrive), 500);

    Object.assign(dataset, {
        FLAGS, state, openSet, pictures, picture, caption, isDraft, unsaved, tagsOf, withTags, hasFlag, shown, toggle,
        clearFilters, choose, chooseAll, step, loadSets, reload, open, draft, save, set, forRun, trainWeights, recall,
    });
})();
