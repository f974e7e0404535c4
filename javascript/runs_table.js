// The table of runs: search, choice, a second run to compare, and the menu of what can be done with the chosen one.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const ICONS = {
        done: "M3.5 8.5 6.5 11.5 12.5 5",
        stop: "M5 5h6v6H5z",
        bad: "M8 2.5 14.5 13.5H1.5zM8 6.5v3.2M8 11.6v.4",
    };
    const DAY = 86400000;
    let runs; // blocktrain.runs
    let words = [];

    function icon(kind) {
        const mark = runs.made("i", { className: "blocktrain-st" });
        if (ICONS[kind]) {
            mark.innerHTML = `<svg class="blocktrain-ic" viewBox="0 0 16 16" aria-hidden="true"><path d="${ICONS[kind]}" fill="none" stroke="currentColor" stroke-width="1.8" stroke-linecap="round" stroke-linejoin="round"/></svg>`;
        }
        return mark;
    }

    // When a run ended: a time today, a day of this week, or a date.
    function when(seconds) {
        const then = new Date(seconds * 1000);
        const midnight = new Date().setHours(0, 0, 0, 0);
        const time = then.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
        if (then >= midnight) {
            return time;
        }
        if (then >= midnight - DAY) {
            return "yesterday";
        }
        const far = then < midnight - 6 * DAY;
        return then.toLocaleDateString("en", far ? { day: "numeric", month: "short", year: "numeric" } : { weekday: "short" });
    }

    const text = (run) => `${run.title} ${run.name} ${run.state} ${run.words} ${run.on} ${run.notes}`.toLowerCase();
    const fits = (run) => words.every((word) => text(run).includes(word));

    const readable = (run) => Boolean(run) && run.state !== "damaged";

    function row(run) {
        const { made, state } = runs;
        const chosen = run.name === runs.chosen();
        const other = run.name === state.other;
        const small = made("small", { textContent: run.when ? `${run.words} · ${when(run.when)}` : run.words });
        const title = made("b", { textContent: run.title, title: run.notes ? `${run.name}\n${run.notes}` : run.name });
        const name = made("td", { className: "blocktrain-c-n" }, made("div", {}, icon(run.kind), made("span", {}, title, small)));
        const steps = made("td", { className: "blocktrain-c-s", textContent: readable(run) ? `${run.step}/${run.steps}` : "–" });
        if (run.kind === "run") {
            const done = made("i");
            done.style.width = `${(100 * run.step) / Math.max(1, run.steps)}%`;
            steps.append(made("i", { className: "blocktrain-mini" }, done));
        }
        const loss = made("td", { className: "blocktrain-c-l", textContent: run.loss === null ? "–" : run.loss.toPrecision(3) });
        const map = made("td", { className: "blocktrain-c-u" });
        if (run.weights.length) {
            map.append(made("span", { title: run.blocks || "no block" }, blocktrain.tinyU(run.weights)));
        }
        const letter = chosen ? "A" : other ? "B" : "+";
        const about = chosen ? "This run is shown" : other ? "End the comparison" : readable(run) ? `Compare with ${run.title}` : run.notes;
        const compare = made("button", { type: "button", textContent: letter, title: about, disabled: chosen || !(other || readable(run)) });
        compare.className = `blocktrain-ab${chosen ? " blocktrain-is-a" : other ? " blocktrain-is-b" : ""}`;
        compare.setAttribute("aria-label", about);
        const line = made("tr", { tabIndex: 0 }, name, steps, loss, map, made("td", { className: "blocktrain-c-c" }, compare));
        line.dataset.run = run.name;
        line.setAttribute("aria-label", `${run.title}, ${run.words}`);
        line.className = `blocktrain-is-${run.kind}${chosen ? " blocktrain-is-sel" : ""}`;
        line.setAttribute("aria-current", String(chosen));
        return line;
    }

    const drawn = new Map(); // name -> what its row was drawn from

    // Only rows that have changed are made anew, so that the focus and the place in the list stay.
    function draw() {
        const list = runs.find("#blocktrain_runs_list tbody");
        const all = runs.data.table?.runs || [];
        if (!list) {
            return;
        }
        const rows = new Map([...list.children].map((line) => [line.dataset.run, line]));
        const wanted = all.filter(fits);
        let before = null;
        for (const run of wanted) {
            const key = JSON.stringify([run, run.name === runs.chosen(), run.name === runs.state.other]);
            let line = rows.get(run.name);
            if (!line || drawn.get(run.name) !== key) {
                const fresh = row(run);
                const focused = line === document.activeElement;
                line?.replaceWith(fresh);
                line = fresh;
                drawn.set(run.name, key);
                if (focused) {
                    fresh.focus({ preventScroll: true });
                }
            }
            rows.delete(run.name);
            const next = before ? before.nextElementSibling : list.firstElementChild;
            if (next !== line) {
                list.insertBefore(line, next);
            }
            before = line;
        }
        rows.forEach((line) => line.remove());
        const none = runs.find("#blocktrain_runs_list .blocktrain-line");
        none.hidden = wanted.length > 0 || !all.length;
        none.textContent = `None of ${all.length} runs has “${words.join(" ")}” in its name, state, blocks or notes.`;
        drawCount(all.length);
        drawMenu();
        drawFiles();
        drawCompared();
        const place = runs.find("#blocktrain_place_runs");
        place?.classList.toggle("blocktrain-in-training", current()?.state === "training");
        place?.classList.toggle("blocktrain-unread", Boolean(current()) && !readable(current()));
        place?.classList.toggle("blocktrain-no-runs", runs.data.table !== null && !all.length);
    }

    function drawCount(count) {
        const button = runs.find("#blocktrain_segs_runs [data-segment=all]");
        if (button) {
            if (button.dataset.count !== String(count)) {
                button.dataset.count = count;
                button.replaceChildren("All runs ", runs.made("em", { textContent: count || "" }));
            }
        }
    }

    // Both names above the charts.
    function drawCompared() {
        const head = runs.find("#blocktrain_runs_head .blocktrain-run-h");
        const other = runs.data.table?.runs.find((run) => run.name === runs.state.other);
        if (!head) {
            return;
        }
        const key = other ? other.title : "";
        if ((head.dataset.other || "") === key) {
            return;
        }
        head.dataset.other = key;
        head.querySelector(".blocktrain-cmp")?.remove();
        if (other) {
            const { made } = runs;
            const end = made("button", { type: "button", className: "blocktrain-btn blocktrain-icon blocktrain-is-quiet", textContent: "✕" });
            end.title = "End the comparison";
            end.setAttribute("aria-label", end.title);
            end.addEventListener("click", () => runs.set({ other: "" }));
            const mark = (letter) => made("i", { className: `blocktrain-ab blocktrain-is-${letter.toLowerCase()}`, textContent: letter });
            const own = made("span", { className: "blocktrain-cut", textContent: head.querySelector("h1").textContent });
            const theirs = made("span", { className: "blocktrain-cut", textContent: other.title });
            head.append(made("span", { className: "blocktrain-cmp" }, mark("A"), own, mark("B"), theirs, end));
        }
    }

    function drawFiles() {
        const menu = runs.find("#blocktrain_runs_file select");
        const files = runs.data.saved?.files || [];
        if (!menu) {
            return;
        }
        if (menu.dataset.files !== files.join("\n")) {
            menu.dataset.files = files.join("\n");
            menu.replaceChildren(...files.map((file) => runs.made("option", { value: file, textContent: file })));
        }
        menu.value = runs.file();
        menu.hidden = files.length < 2;
    }

    // --- the menu ---------------------------------------------------------------------------------------------------

    const current = () => runs.data.table?.runs.find((run) => run.name === runs.chosen());
    const waiting = () => (runs.data.table?.runs || []).filter((run) => run.place !== null).length;

    function drawMenu() {
        const menu = runs.find("#blocktrain_runs_menu");
        const run = current();
        const queued = run && run.place !== null;
        const shown = {
            first: queued && run.place > 1,
            up: queued && run.place > 1,
            down: queued && run.place < waiting(),
            preview: runs.data.saved?.files.length,
            delete: readable(run) && run.kind !== "run",
            title: readable(run),
            notes: readable(run),
            json: readable(run),
        };
        for (const item of menu?.querySelectorAll("[data-do]") || []) {
            item.hidden = !shown[item.dataset.do];
        }
    }

    async function act(what) {
        const run = current();
        if (!run) {
            return;
        }
        const command = (more) => runs.ask({ run: run.name, ...more });
        if (what === "title" || what === "notes") {
            const about = what === "title" ? "The title in the list. Empty: the name of its files." : "A text for yourself, kept with the run.";
            const value = await dialog(what === "title" ? "Rename" : "Notes", about, { field: what, value: run[what], go: "Save" });
            if (value !== null) {
                command({ what, text: value });
            }
        } else if (what === "json") {
            const copied = await blocktrain.copy(runs.data.saved.json);
            await dialog(copied ? "Copied" : "Not copied", copied ? `run.json of ${run.title} is on the clipboard.` : "The browser did not allow it.", {});
        } else if (what === "preview") {
            runs.find("button#blocktrain_runs_preview, #blocktrain_runs_preview button").click();
        } else if (what === "delete") {
            const about = `${run.title}: its samples, checkpoints and saved state are deleted, for good. A LoRA that was saved among the others stays.`;
            if ((await dialog("Delete this run?", about, { go: "Delete", danger: true })) !== null) {
                command({ what });
            }
        } else {
            command({ what: "move", place: { first: 1, up: run.place - 1, down: run.place + 1 }[what] });
        }
    }

    // Asks in a dialog; returns the text of its field, "" without one, or null for "no".
    function dialog(title, about, { field, value, go, danger }) {
        const { made } = runs;
        const said = made("p", { textContent: about });
        const input = field && made(field === "notes" ? "textarea" : "input", { value: value || "", className: "blocktrain-in" });
        if (input) {
            input.maxLength = field === "notes" ? 10000 : 100;
            input.rows = 6;
            input.setAttribute("aria-label", title);
        }
        const cancel = made("button", { type: "button", className: "blocktrain-btn", textContent: go ? "Cancel" : "Close" });
        const kind = danger ? "blocktrain-is-danger" : "blocktrain-is-primary";
        const sure = go && made("button", { type: "submit", className: `blocktrain-btn ${kind}`, textContent: go });
        const buttons = made("div", { className: "blocktrain-dialog-b" }, cancel, sure || null);
        const form = made("form", { method: "dialog" }, made("h2", { textContent: title }), said, input || null, buttons);
        const popup = made("dialog", { className: "blocktrain-dialog" }, form);
        runs.find("#blocktrain").append(popup);
        return new Promise((resolve) => {
            let answer = null;
            form.addEventListener("submit", (event) => {
                event.preventDefault();
                answer = input ? input.value : "";
                popup.close();
            });
            cancel.addEventListener("click", () => popup.close());
            popup.addEventListener("close", () => {
                popup.remove();
                resolve(answer);
            });
            popup.showModal();
            (input || (danger ? cancel : sure) || cancel).focus();
        });
    }

    // --- events -----------------------------------------------------------------------------------------------------

    function build(list) {
        runs = blocktrain.runs;
        const search = list.querySelector("input[type=search]");
        search.addEventListener("input", () => {
            words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
            draw();
        });
        list.addEventListener("click", (event) => {
            const line = event.target.closest("tr[data-run]");
            if (line && event.target.closest(".blocktrain-ab")) {
                runs.set({ other: runs.state.other === line.dataset.run ? "" : line.dataset.run });
            } else if (line) {
                runs.choose(line.dataset.run);
                blocktrain.segment?.("runs", "now");
            }
        });
        list.addEventListener("keydown", (event) => {
            const line = event.target.closest("tr[data-run]");
            if (!line || event.target !== line) {
                return;
            }
            const to = { ArrowDown: line.nextElementSibling, ArrowUp: line.previousElementSibling }[event.key];
            if (event.key === "Enter" || event.key === " ") {
                event.preventDefault();
                runs.choose(line.dataset.run);
            } else if (to) {
                event.preventDefault();
                to.focus();
            }
        });
        runs.listeners.add(draw);
        draw();
    }

    // Stop, which saves nothing, asks first. The click that the answer makes goes through.
    let confirmed = false;

    document.addEventListener(
        "click",
        async (event) => {
            const button = event.target.closest?.("#blocktrain_runs_stop");
            if (!button || confirmed || !runs || current()?.kind !== "run") {
                return;
            }
            event.preventDefault();
            event.stopImmediatePropagation();
            const run = current();
            const about = `${run.title} ends after this step, and what it learnt since its last save is lost. Checkpoints and the last save stay. Stop and save keeps everything.`;
            if ((await dialog("Stop without saving?", about, { go: "Stop", danger: true })) !== null) {
                confirmed = true;
                (button.querySelector("button") || button).click();
                confirmed = false;
            }
        },
        true
    );

    document.addEventListener("click", (event) => {
        const item = event.target.closest?.("#blocktrain_runs_menu [data-do]");
        if (item) {
            blocktrain.openMenu?.(item.closest(".blocktrain-menu"), false);
            act(item.dataset.do);
        }
        if (event.target.closest?.("#blocktrain_runs_view [data-go]")) {
            blocktrain.go?.("train");
        }
    });

    document.addEventListener("change", (event) => {
        if (event.target.matches?.("#blocktrain_runs_file select")) {
            blocktrain.runs.set({ file: event.target.value });
        }
    });

    (blocktrain.components ||= new Map()).set("blocktrain-runs-list", build);
})();
