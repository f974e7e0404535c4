// Makes the U maps of `lib_blocktrain/ui/u_map.py` interactive. A map with `data-sliders` shows and moves the sliders
// whose ids start with that prefix; one without shows `data-weights`. A page may have any number of maps.
//
// To colour the blocks, set a map's attribute `data-values` to JSON, block id to number ("" removes the colours), and
// `data-values-title` to the meaning of the numbers. `blocktrain.uMap.show(id, values, title)` does both; the server
// sends new HTML instead. 0 has the faintest colour, the largest magnitude the strongest.
//
// Pointer, wheel and keyboard are handled in u_map_gestures.js; weight_rows.js draws the table of sliders, and
// preset_base.js knows which preset the weights came from.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const maps = new Map(); // by the id of their element
    const QUIET = 400; // ms without a change after which the changes so far become one undo step
    const FILLING = 1000; // ms in which the server fills the sliders for a new subject: not an undo step
    const KEPT_STEPS = 200;
    const LOADED = 60; // ms after which weights that came from elsewhere than a hand on this page are all there
    const SAID = 6000; // ms for which a message stands
    const CURVES = { linear: (t) => t, sine: (t) => Math.sin((Math.PI / 2) * t), cosine: (t) => Math.cos((Math.PI / 2) * t) };

    const short = (number, digits = 2) => String(Number(number.toFixed(digits)));
    const shown = (number, digits = 2) => short(number, digits).replace("-", "−");
    // A measured number, with as many digits as all others beside it: two of the largest at least.
    function figure(number, largest) {
        const digits = largest < 1e-6 ? 2 : Math.max(2, 1 - Math.floor(Math.log10(largest)));
        return (Number(number.toFixed(digits)) || 0).toFixed(digits).replace("-", "−");
    }
    const rounded = (number) => Math.round(number * 100) / 100;

    // Undo and redo of weights.
    class History {
        constructor(now) {
            this.now = now;
            this.past = [];
            this.future = [];
        }

        differs(weights) {
            return Object.keys({ ...weights, ...this.now }).some((id) => weights[id] !== this.now[id]);
        }

        add(weights) {
            if (!this.differs(weights)) {
                return;
            }
            this.past = [...this.past, this.now].slice(-KEPT_STEPS);
            this.future = [];
            this.now = weights;
        }

        go(from, to) {
            to.push(this.now);
            this.now = from.pop();
            return this.now;
        }
    }

    class UMap {
        constructor(element) {
            this.element = element;
            this.plane = element.querySelector(".blocktrain-u-plane");
            this.blocks = new Map();
            for (const block of this.plane.querySelectorAll(".blocktrain-u-block")) {
                this.blocks.set(block.dataset.block, block);
            }
            this.ids = [...this.blocks.keys()];
            this.handles = [...this.plane.querySelectorAll(".blocktrain-u-handle")];
            this.redraw = (outside) => {
                if (outside) {
                    this.laterLoaded();
                }
                this.laterDraw();
            };
            const prefix = element.dataset.sliders;
            this.sliders = prefix ? new blocktrain.SliderLink(prefix, this.ids, this.redraw) : null;
            this.selection = new Set();
            this.linked = false;
            this.diff = true; // whether changes from the preset are marked
            this.moved = new Set(); // sliders moved by this map and not yet released
            this.takeOver(maps.get(element.id));
            maps.set(element.id, this);
            this.meetSliders = () => this.element.isConnected && this.sliders?.complete() === false && this.draw();
            blocktrain.pageChanged ||= new Set();
            blocktrain.pageChanged.add(this.meetSliders);
            this.watcher = new MutationObserver(() => this.laterDraw());
            this.watcher.observe(element, { attributeFilter: ["data-values", "data-values-title", "data-weights"] });
            element.classList.toggle("blocktrain-u-fixed", !this.sliders);
            if (this.sliders) {
                this.hands = blocktrain.handleUMap(this);
                this.rows = new blocktrain.WeightRows(this);
                this.tools();
            }
            this.draw();
        }

        // Takes over the state of the element that the server has replaced by this one.
        takeOver(old) {
            const same = old && old.element.dataset.subject === this.element.dataset.subject;
            this.history = same ? old.history : null;
            if (this.sliders && (!same || old.loading)) {
                this.laterLoaded();
            }
            if (!old) {
                return;
            }
            old.detach();
            this.linked = old.linked;
            this.diff = old.diff;
            if (same) {
                this.selection = new Set([...old.selection].filter((id) => this.blocks.has(id)));
            }
            if (old.focused) {
                this.blocks.get(old.focused)?.focus({ preventScroll: true });
            }
        }

        detach() {
            [this.quiet, this.loading, this.saying].forEach(clearTimeout);
            blocktrain.pageChanged.delete(this.meetSliders);
            this.watcher.disconnect();
            this.sliders?.detach();
            this.hands?.detach();
            this.rows?.detach();
        }

        // --- weights ----------------------------------------------------------------------------------------------

        weight(id) {
            if (this.sliders) {
                return this.sliders.read(id) ?? 0;
            }
            return this.parsed("weights")?.[id] ?? null;
        }

        can(id) {
            return Boolean(this.sliders) && !this.blocks.get(id)?.dataset.absent && this.sliders.can(id);
        }

        weights() {
            return Object.fromEntries(this.ids.map((id) => [id, this.weight(id)]));
        }

        // Sets weights, clamped to the sliders' range; a linked skip partner not set itself gets the same weight.
        set(changes) {
            const [low, high] = this.sliders.range();
            const wanted = { ...changes };
            for (const [id, value] of Object.entries(changes)) {
                const partner = this.blocks.get(id)?.dataset.partner;
                if (this.linked && partner && !(partner in changes)) {
                    wanted[partner] = value;
                }
            }
            for (const [id, value] of Object.entries(wanted)) {
                if (this.can(id)) {
                    this.moved.add(id);
                    this.sliders.write(id, Math.min(high, Math.max(low, rounded(value))));
                }
            }
            this.draw();
        }

        // Called once weights that the server or a preset has set are all there, or those of another LoRA.
        laterLoaded() {
            clearTimeout(this.loading);
            this.loading = setTimeout(() => {
                this.loading = null;
                this.selection.clear();
                blocktrain.presetBase.loaded(this);
                this.draw();
            }, LOADED);
        }

        // Starts the undo history once all sliders are in the page.
        begin() {
            if (!this.history) {
                this.history = new History(this.weights());
                this.born = performance.now();
            }
        }

        // A gesture on another element, or of another kind, starts a new undo step, however soon it follows.
        gesture(element, kind) {
            if (element !== this.gestured?.element || kind !== this.gestured.kind) {
                this.settle();
                this.gestured = { element, kind };
            }
        }

        // Ends an undo step. One of the moved sliders is released, so that a server that listens to "release" gets one
        // event for all of them.
        settle() {
            clearTimeout(this.quiet);
            this.quiet = null;
            if (!this.history) {
                return;
            }
            const now = this.weights();
            const [moved] = this.moved;
            this.history.touched ||= Boolean(moved);
            if (!this.history.touched && performance.now() - this.born < FILLING) {
                this.history = new History(now);
            } else {
                this.history.add(now);
            }
            blocktrain.presetBase.remember(this, this.history.now);
            this.moved.clear();
            if (moved) {
                this.sliders.released(moved);
            }
            this.drawTools();
        }

        step(back) {
            if (!this.history) {
                return;
            }
            this.settle();
            const { past, future } = this.history;
            const [from, to] = back ? [past, future] : [future, past];
            if (from.length) {
                const linked = this.linked;
                this.linked = false;
                this.set(this.history.go(from, to));
                this.linked = linked;
                blocktrain.presetBase.restore(this, this.history.now);
                this.drawTools();
            }
        }

        // --- selection --------------------------------------------------------------------------------------------

        select(ids) {
            this.selection = new Set(ids.filter((id) => this.blocks.has(id)));
            this.draw();
        }

        // The blocks that a handle moves.
        members(handle) {
            const { group, of } = handle.dataset;
            return this.ids.filter((id) => this.blocks.get(id).dataset[group] === of);
        }

        // --- what is shown ----------------------------------------------------------------------------------------

        laterDraw() {
            if (!this.waiting) {
                this.waiting = true;
                queueMicrotask(() => {
                    this.waiting = false;
                    this.draw();
                });
            }
        }

        parsed(name) {
            const text = this.element.dataset[name];
            return text ? JSON.parse(text) : null;
        }

        draw() {
            const values = this.parsed("values");
            const largest = values ? Math.max(...Object.values(values).map(Math.abs), 1e-12) : 1;
            this.element.classList.toggle("blocktrain-u-valued", Boolean(values));
            for (const [id, block] of this.blocks) {
                this.drawBlock(id, block, values?.[id], largest);
                block.classList.toggle("blocktrain-u-unvalued", Boolean(values) && values[id] === undefined);
            }
            for (const handle of this.handles) {
                this.drawHandle(handle);
            }
            for (const path of this.plane.querySelectorAll("[data-skip]")) {
                const id = path.dataset.skip;
                const ends = [id, this.blocks.get(id)?.dataset.partner];
                path.classList.toggle("blocktrain-u-lit", this.linked || ends.includes(this.focused) || ends.includes(this.under));
            }
            this.drawLegend(values, largest);
            if (this.sliders?.complete()) {
                this.begin();
                this.drawTools();
                this.rows.draw();
                this.drawInfo();
                blocktrain.presetMenu.draw(this);
                this.waitForQuiet();
            }
        }

        drawBlock(id, block, value, largest) {
            const only = !this.sliders; // a map of values, which are its numbers, or of weights alone
            const weight = this.weight(id);
            const can = this.can(id);
            const chosen = this.selection.has(id);
            const valued = value !== undefined;
            const measured = valued ? figure(value, largest) : "";
            const unvalued = only && !valued && this.element.classList.contains("blocktrain-u-valued");
            const unknown = Boolean(block.dataset.absent) || (weight === null && !valued) || unvalued;
            const text = unknown ? "–" : only && valued ? measured : shown(weight);
            const key = [text, weight, can, chosen, value, largest, this.pointed === id].join("|");
            if (block.drawn === key) {
                return;
            }
            block.drawn = key;
            const tint = unknown ? 0 : weight ?? 0;
            block.style.setProperty("--blocktrain-w", Math.min(Math.abs(tint), 1));
            block.style.setProperty("--blocktrain-o", Math.min(Math.max(0, tint - 1), 1));
            block.style.setProperty("--blocktrain-v", valued ? Math.abs(value) / largest : 0);
            const states = {
                zero: !unknown && weight === 0,
                over: tint > 1,
                minus: tint < 0,
                chosen,
                still: Boolean(this.sliders) && !can,
                kept: only && valued && Boolean(weight),
                below: valued && value < 0,
                unvalued,
                pointed: this.pointed === id,
            };
            Object.entries(states).forEach(([name, on]) => block.classList.toggle(`blocktrain-u-${name}`, on));
            block.querySelector(".blocktrain-u-weight").textContent = text;
            const title = this.element.dataset.valuesTitle;
            const first = block.dataset.absent || (unknown || weight === null ? "" : short(weight));
            const said = [first, measured && `${title} ${measured}`, chosen && "selected"];
            block.querySelector(".blocktrain-u-told").textContent = ` ${said.slice(0, 2).filter(Boolean).join(" · ")}`;
            if (this.sliders) {
                const [low, high] = this.sliders.range();
                const aria = { valuenow: weight, valuemin: low, valuemax: high, disabled: !can };
                aria.valuetext = said.filter(Boolean).join(", ");
                Object.entries(aria).forEach(([name, of]) => block.setAttribute(`aria-${name}`, of));
            } else {
                block.setAttribute("aria-label", [id, ...said].filter(Boolean).join(", "));
            }
        }

        drawHandle(handle) {
            const weights = this.members(handle).filter((id) => this.can(id)).map((id) => this.weight(id));
            const mean = weights.length ? weights.reduce((sum, weight) => sum + weight, 0) / weights.length : 0;
            const key = `${mean}|${weights.length}`;
            if (handle.drawn !== key) {
                handle.drawn = key;
                handle.setAttribute("aria-valuenow", rounded(mean));
                handle.setAttribute("aria-valuetext", `${short(mean)} on average of ${weights.length} blocks`);
                handle.setAttribute("aria-disabled", String(!weights.length));
            }
        }

        drawLegend(values, largest) {
            const entry = this.element.querySelector(".blocktrain-u-key-values");
            const [least, most] = entry.querySelectorAll(":scope > span");
            entry.hidden = !values || !Object.keys(values).length;
            const both = Object.values(values || {}).some((value) => value < 0);
            entry.classList.toggle("blocktrain-u-both", both);
            least.textContent = both ? shown(-largest, 3) : "0";
            most.textContent = shown(largest, 3);
            entry.querySelector(".blocktrain-u-key-title").textContent = this.element.dataset.valuesTitle || "";
            entry.querySelector(".blocktrain-u-key-kept").hidden = Boolean(this.sliders) || !this.element.dataset.weights;
        }

        // The line beside the tools: the block under the pointer or with the keyboard, else what is selected, else how
        // the weights differ from their preset.
        drawInfo() {
            const line = this.element.querySelector(".blocktrain-u-said-of");
            const id = this.pointed ?? this.under ?? this.focused;
            const parts = id ? this.infoOf(id) : this.infoOfAll();
            const key = parts.join("|");
            if (line.drawn !== key) {
                line.drawn = key;
                const [head, weight, rest] = parts;
                const bold = document.createElement("b");
                bold.textContent = head;
                const quiet = document.createElement("span");
                quiet.textContent = rest;
                line.replaceChildren(bold, ` ${weight} `, quiet);
            }
        }

        infoOf(id) {
            const { absent, facts } = this.blocks.get(id).dataset;
            if (absent) {
                return [id, "", absent];
            }
            const preset = blocktrain.presetBase.of(this)?.weights[id];
            return [id, shown(this.weight(id)), [preset !== undefined && `preset ${shown(preset)}`, facts].filter(Boolean).join(" · ")];
        }

        infoOfAll() {
            if (this.selection.size) {
                return [`${this.selection.size} selected`, "", blocktrain.presetBase.spans(this, [...this.selection])];
            }
            return blocktrain.presetBase.words(this);
        }

        drawTools() {
            if (!this.history) {
                return;
            }
            const tool = (name) => this.element.querySelector(`[data-tool=${name}]`);
            tool("undo").disabled = !(this.history.past.length || this.history.differs(this.weights()));
            tool("redo").disabled = !this.history.future.length;
            tool("link").setAttribute("aria-pressed", String(this.linked));
            tool("diff").setAttribute("aria-pressed", String(this.diff));
        }

        showMessage(text, place = "blocktrain-u-message") {
            const line = this.element.querySelector(`.${place}`);
            blocktrain.setText(line, text);
            clearTimeout(this.saying);
            if (text && place === "blocktrain-u-message") {
                this.saying = setTimeout(() => this.showMessage(""), SAID);
            }
        }

        // An undo step ends when nothing has changed for a while.
        waitForQuiet() {
            const seen = this.ids.map((id) => this.weight(id)).join();
            if (seen !== this.seen) {
                this.seen = seen;
                clearTimeout(this.quiet);
                this.quiet = this.held ? null : setTimeout(() => this.settle(), QUIET);
            }
        }

        // --- tools ------------------------------------------------------------------------------------------------

        tools() {
            const uses = {
                undo: () => this.step(true),
                redo: () => this.step(false),
                zero: () => this.setAll(0),
                one: () => this.setAll(1),
                link: () => {
                    this.linked = !this.linked;
                    this.draw();
                },
                diff: () => {
                    this.diff = !this.diff;
                    this.draw();
                },
                curve: () => this.setCurve(),
            };
            this.element.querySelector(".blocktrain-u-tools").addEventListener("click", (event) => {
                uses[event.target.closest("[data-tool]")?.dataset.tool]?.();
            });
            const folded = this.element.querySelector(".blocktrain-u-curve");
            folded.addEventListener("input", () => this.drawCurve());
            folded.addEventListener("toggle", () => this.drawCurve());
        }

        setAll(value) {
            const ids = this.selection.size ? [...this.selection] : this.ids.filter((id) => id !== "BASE");
            this.settle();
            this.set(Object.fromEntries(ids.map((id) => [id, value])));
            this.settle();
        }

        // sd-scripts' curves over the blocks from first to last: sine rises, cosine falls.
        curve() {
            const field = (name) => this.element.querySelector(`[data-curve=${name}]`);
            const shape = CURVES[field("shape").value];
            const at = field("reverse").checked ? (t) => shape(1 - t) : shape;
            return { at, low: Number(field("low").value), high: Number(field("high").value), of: field("of").value };
        }

        drawCurve() {
            const { at } = this.curve();
            const points = Array.from({ length: 21 }, (_, i) => `${i * 5} ${30 - 30 * at(i / 20)}`);
            this.element.querySelector(".blocktrain-u-curve path").setAttribute("d", `M${points.join("L")}`);
        }

        setCurve() {
            const { at, low, high, of } = this.curve();
            const [least, most] = this.sliders.range();
            const inside = (value) => value >= least && value <= most;
            if (!inside(low) || !inside(high)) {
                this.showMessage(`Low ${low}, high ${high}: expected numbers from ${least} to ${most}`, "blocktrain-u-said");
                return;
            }
            const belongs = { selection: (id) => this.selection.has(id), all: (id) => id !== "BASE" };
            const ids = this.ids.filter(belongs[of] || ((id) => this.blocks.get(id).dataset.side === of));
            if (!ids.length) {
                this.showMessage("Nothing is selected: click blocks, or choose other blocks here", "blocktrain-u-said");
                return;
            }
            this.showMessage("", "blocktrain-u-said");
            const last = Math.max(ids.length - 1, 1);
            this.settle();
            this.set(Object.fromEntries(ids.map((id, place) => [id, low + (high - low) * at(place / last)])));
            this.settle();
        }
    }

    blocktrain.uMap = {
        find: (id) => maps.get(id),
        show(id, values, title = "") {
            const element = document.getElementById(id);
            element.dataset.valuesTitle = title;
            element.dataset.values = values ? JSON.stringify(values) : "";
        },
        // Sets the weights of a preset, {name, weights, changes}; `changes` are those for kinds of layers and steps.
        apply(id, preset) {
            const map = maps.get(id);
            map.settle();
            map.selection.clear();
            for (const [block, weight] of Object.entries(preset.weights)) {
                map.moved.add(block);
                map.sliders.write(block, weight); // also where this LoRA has no layers: another may
            }
            blocktrain.presetBase.use(map, preset);
            map.settle();
            map.draw();
        },
        // Shows a message where the map's line is, for some seconds.
        say: (id, text) => maps.get(id)?.showMessage(text),
    };

    blocktrain.components ||= new Map();
    blocktrain.components.set("blocktrain-u", (element) => new UMap(element));
})();
