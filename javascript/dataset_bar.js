// The action bar of Pictures: what the set holds and what was done last, with Undo; captions and masks that are not saved; and
// the way to Train. Every error of the place is shown here.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const dataset = (blocktrain.pictureSets ||= {});
    const REFRESH = 500; // milliseconds after a change until the counts are read again
    const PATHS = {
        warn: "M8 2.5 14.5 13.5H1.5zM8 6.5v3.2M8 11.6v.4",
        good: "M3.5 8.5 6.5 11.5 12.5 5",
        up: "M8 11V3M4.8 6 8 3l3.2 3M2.5 10v3h11v-3",
        tag: "M2.5 2.5h5.2l5.8 5.8-5.2 5.2-5.8-5.8zM5.3 5.3v.01",
        plus: "M8 3v10M3 8h10",
        x: "M4 4l8 8M12 4l-8 8",
        search: "M7 12A5 5 0 1 0 7 2a5 5 0 0 0 0 10ZM11 11l3 3",
        grid: "M2.5 2.5h4.5v4.5H2.5zM9 2.5h4.5v4.5H9zM2.5 9h4.5v4.5H2.5zM9 9h4.5v4.5H9z",
        eye: "M1.5 8S4 3.5 8 3.5 14.5 8 14.5 8 12 12.5 8 12.5 1.5 8 1.5 8ZM8 10a2 2 0 1 0 0-4 2 2 0 0 0 0 4Z",
        crop: "M4.5 1.5v10h10M1.5 4.5h10v10",
        mask: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2Zm0 0v12m2-11.5v11m2-9.5v8",
        before: "M10 3 5 8l5 5",
        after: "m6 3 5 5-5 5",
    };
    let said = null; // {text, kind, act}: what was done last, in place of what the set holds
    let refreshing = null;

    function icon(name) {
        const { drawn } = blocktrain;
        const path = { d: PATHS[name], fill: "none", stroke: "currentColor", "stroke-width": 1.4 };
        const ends = { "stroke-linecap": "round", "stroke-linejoin": "round" };
        return drawn("svg", { class: "blocktrain-ic", viewBox: "0 0 16 16", "aria-hidden": "true" }, drawn("path", { ...path, ...ends }));
    }

    const many = (count, one, more = `${one}s`) => `${count} ${count === 1 ? one : more}`;

    // --- messages ---------------------------------------------------------------------------------------------------

    // Say what was done or is wrong; `act` is {label, run} of a button beside it. Kinds: note, busy, bad.
    function say(text, kind = "note", act = null) {
        said = text ? { text, kind, act } : null;
        draw();
    }

    // Carry out what a person asked for; returns undefined where it failed, which is said.
    async function attempt(work, busy = "") {
        if (busy) {
            say(busy, "busy");
        }
        try {
            const value = await work();
            if (busy && said?.text === busy) {
                say("");
            }
            return value;
        } catch (error) {
            say(error.message, "bad");
            return undefined;
        }
    }

    const undoing = { label: "Undo", run: () => undo() };

    // Say what a change did, and read the counts again soon.
    function did(change, text) {
        const problems = change.problems.length ? ` ${change.problems.slice(0, 3).join("; ")}` : "";
        say(text + problems, change.problems.length ? "bad" : "note", change.id ? undoing : null);
        refreshSoon();
    }

    function refreshSoon() {
        clearTimeout(refreshing);
        refreshing = setTimeout(() => attempt(dataset.reload), REFRESH);
    }

    async function undo() {
        await attempt(async () => {
            const { change } = await dataset.ask("undo", { set: dataset.state.set });
            await dataset.reload();
            say(`${change.title[0].toUpperCase()}${change.title.slice(1)}.`, "note", dataset.state.undo ? undoing : null);
        }, "Taking back …");
    }

    // Save one caption; true if it went well, or nothing was to be saved.
    async function save(key, over = false) {
        try {
            const change = await dataset.save(key, over);
            if (change) {
                did(change, `Caption of ${dataset.picture(key)?.name || key} saved.`);
            }
            return true;
        } catch (error) {
            await attempt(dataset.reload);
            const typed = dataset.state.drafts[dataset.state.set]?.[key];
            const changed = typed && typed.stamp !== dataset.picture(key)?.stamp;
            say(error.message, "bad", changed ? { label: "Save over it", run: () => save(key, true) } : null);
            return false;
        }
    }

    async function saveAll() {
        const keys = dataset.unsaved();
        for (const key of keys) {
            if (!(await save(key))) {
                return false; // why is said
            }
        }
        say(`${many(keys.length, "caption")} saved.`);
        return true;
    }

    // True if all captions are saved, or are now that it was asked.
    function savedFirst(why) {
        const typed = dataset.unsaved().length;
        if (!typed) {
            return true;
        }
        const about = `${many(typed, "caption is", "captions are")} typed but not saved: ${why}`;
        return dataset.dialog("Not all captions are saved", { about, go: "Save and go on", run: saveAll });
    }

    const unsavedMasks = () => dataset.pictures().filter(dataset.isPainted).map((one) => one.picture);

    // True if no mask is painted but not saved, or training is to go without.
    function withoutMasks() {
        const count = unsavedMasks().length;
        const about = `${many(count, "mask is", "masks are")} painted but not saved: training would not see them.`;
        return !count || dataset.dialog("Not all masks are saved", { about, go: "Go on without them", run: () => true });
    }

    // --- the line ---------------------------------------------------------------------------------------------------

    function facts() {
        const { made } = blocktrain;
        const set = dataset.openSet();
        if (!set) {
            return [made("span", { textContent: dataset.state.sets === null ? "" : "No set yet: drop pictures here, or make a new set." })];
        }
        const all = dataset.pictures();
        const repeated = all.reduce((sum, one) => sum + one.repeats, 0);
        const words = [many(set.pictures, "picture") + (repeated > all.length ? `, ${repeated} with repeats` : "")];
        return [made("span", {}, made("b", { textContent: set.name }), ` · ${words.join(" · ")}`)];
    }

    function draw() {
        const line = document.querySelector("#blocktrain_dataset_message .blocktrain-dataset-message");
        if (!line || !blocktrain.made) {
            return;
        }
        const { made } = blocktrain;
        const link = (label, run) => {
            const button = made("button", { type: "button", className: "blocktrain-btn blocktrain-link", textContent: label });
            button.addEventListener("click", run);
            return button;
        };
        const parts = [];
        if (said) {
            const note = made("p", { className: said.kind === "bad" ? "blocktrain-failure" : "blocktrain-note", textContent: said.text });
            note.setAttribute("role", said.kind === "bad" ? "alert" : "status");
            note.classList.toggle("blocktrain-is-busy", said.kind === "busy");
            parts.push(note, said.act && link(said.act.label, said.act.run), said.kind !== "busy" && close());
        } else {
            parts.push(...facts());
        }
        const typed = dataset.unsaved().length;
        if (typed) {
            const words = made("span", { className: "blocktrain-mod", textContent: `${many(typed, "caption")} not saved` });
            parts.push(words, link(typed === 1 ? "Save" : "Save all", saveAll));
        }
        const masks = unsavedMasks();
        if (masks.length) {
            const words = made("span", { className: "blocktrain-mod", textContent: `${many(masks.length, "mask")} not saved` });
            parts.push(words, link("Show", () => showMask(masks[(masks.indexOf(dataset.state.current) + 1) % masks.length])));
        }
        line.replaceChildren(...parts.filter(Boolean));
        const use = document.querySelector("button#blocktrain_dataset_use, #blocktrain_dataset_use button");
        if (use) {
            use.disabled = !dataset.openSet()?.pictures;
        }
        drawCount();

        function close() {
            const button = made("button", { type: "button", className: "blocktrain-btn blocktrain-icon blocktrain-is-quiet", title: "Close" });
            button.setAttribute("aria-label", "Close the message");
            button.append(icon("x"));
            button.addEventListener("click", () => say(""));
            return button;
        }
    }

    function showMask(key) {
        dataset.choose(key);
        dataset.set({ mode: "mask" });
        dataset.reveal(key);
    }

    function drawCount() {
        const button = document.querySelector("#blocktrain_segs_pictures [data-segment=pictures]");
        const count = String(dataset.pictures().length || "");
        if (button && (button.querySelector("em")?.textContent ?? "") !== count) {
            button.replaceChildren("Pictures ", blocktrain.made("em", { textContent: count }));
        }
    }

    // --- Train ------------------------------------------------------------------------------------------------------

    async function use() {
        if ((await savedFirst("training would not see them.")) && (await withoutMasks())) {
            const asked = () => dataset.ask("use", { set: dataset.state.set }, { button: "dataset_use_now" });
            await attempt(asked, "Filling in Train …");
        }
    }

    document.addEventListener("click", (event) => {
        if (event.target.closest?.("#blocktrain_dataset_use")) {
            use();
        }
    });

    function buildAside(element) {
        const { made } = blocktrain;
        const item = (label, about, run) => {
            const button = made("button", { type: "button", className: "blocktrain-mi", textContent: label, title: about });
            button.addEventListener("click", () => {
                blocktrain.openMenu(button.closest(".blocktrain-menu"), false);
                run();
            });
            return button;
        };
        const menu = (name, sign, label, items) => {
            const button = made("button", { type: "button", className: "blocktrain-btn", title: label }, icon(sign), made("span", { textContent: label }));
            button.dataset.menu = "";
            button.setAttribute("aria-haspopup", "true");
            button.setAttribute("aria-expanded", "false");
            const pop = made("div", { className: "blocktrain-pop" }, ...items);
            return made("div", { className: "blocktrain-menu blocktrain-is-right", id: `blocktrain_menu_${name}` }, button, pop);
        };
        element.replaceChildren(
            menu("add_pictures", "up", "Add pictures", [
                item("Choose files…", "PNG, JPEG, WebP; captions in .txt come along", () => dataset.chooseFiles(false)),
                item("Choose a folder…", "All pictures and captions in it", () => dataset.chooseFiles(true)),
                made("p", { className: "blocktrain-foot", textContent: "Or drop them anywhere here." }),
            ]),
            menu("caption_all", "tag", "Caption all…", dataset.captionItems(item))
        );
    }

    (blocktrain.components ||= new Map()).set("blocktrain-dataset-aside", buildAside);
    blocktrain.components.set("blocktrain-dataset-message", draw);
    (dataset.listeners ||= new Set()).add((what) => {
        if (what === "set") {
            said = null; // it was said of another one
        }
        draw();
    });
    Object.assign(dataset, { icon, many, say, attempt, did, undo, saveCaption: save, saveAll, savedFirst, refreshSoon });
})();
