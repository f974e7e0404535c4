// The library of LoRA files in Preview: search, a list that draws only the rows in view, and the card of one file.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const ROW = 44; // pixels, as in style.css
    const LEAST = 240; // pixels: the library's height in a low window
    const AROUND = 6; // rows drawn above and below those in view
    const SIGNS = {
        search: '<circle cx="7" cy="7" r="4.5"/><path d="m10.5 10.5 4 4"/>',
        again: '<path d="M13.5 8a5.5 5.5 0 1 1-1.6-3.9M13.5 1.5v3h-3"/>',
    };
    const MARKUP = `
        <div class="blocktrain-sec-h">
            <h2>LoRAs</h2>
            <label class="blocktrain-search">
                <svg class="blocktrain-ic blocktrain-sign" viewBox="0 0 16 16" aria-hidden="true">${SIGNS.search}</svg>
                <input type="search" role="combobox" aria-expanded="false" aria-autocomplete="list"
                    aria-controls="blocktrain_lora_list" aria-label="Add a LoRA: name, tag, algorithm, activation text"
                    placeholder="Add: name, tag, algorithm" autocomplete="off" spellcheck="false">
                <kbd>/</kbd>
            </label>
            <button type="button" class="blocktrain-btn blocktrain-icon blocktrain-is-quiet" data-act="refresh"
                title="Read the LoRA folders again, and check which model is loaded" aria-label="Refresh">
                <svg class="blocktrain-ic blocktrain-sign" viewBox="0 0 16 16" aria-hidden="true">${SIGNS.again}</svg>
            </button>
        </div>
        <div class="blocktrain-library">
            <div class="blocktrain-lib-head">
                <div class="blocktrain-seg" role="group" aria-label="Which files">
                    <button type="button" data-which="all" aria-pressed="true">All</button>
                    <button type="button" data-which="recent" aria-pressed="false">Recent</button>
                    <button type="button" data-which="ours" aria-pressed="false" title="Trained here">Trained</button>
                </div>
                <select class="blocktrain-in" aria-label="Order">
                    <option value="name">by name</option><option value="time">newest</option>
                </select>
            </div>
            <div class="blocktrain-lib-body">
                <div class="blocktrain-lib-list" id="blocktrain_lora_list" role="listbox" tabindex="-1"
                    aria-label="LoRA files">
                    <div class="blocktrain-lib-all"></div>
                    <p class="blocktrain-lib-none" hidden></p>
                </div>
                <div class="blocktrain-lib-card" hidden>
                    <div class="blocktrain-lib-card-h"></div>
                    <div class="blocktrain-lib-card-b" aria-live="polite"></div>
                </div>
            </div>
            <div class="blocktrain-lib-foot"><span role="status"></span>
                <button type="button" class="blocktrain-btn blocktrain-link" data-which="broken" hidden>Why</button></div>
        </div>`;

    class Library {
        constructor(root) {
            this.root = root;
            this.which = "all";
            this.order = "name";
            this.found = []; // the files that match, in order
            this.cursor = -1; // the row that Enter adds
            this.card = null; // the key whose card is open
            root.innerHTML = MARKUP;
            this.search = root.querySelector("[type=search]");
            this.list = root.querySelector(".blocktrain-lib-list");
            this.all = root.querySelector(".blocktrain-lib-all");
            blocktrain.loraRows(root.querySelector(".blocktrain-sec-h"));
            this.wire();
            blocktrain.loras.listen((what) => {
                if (what === "files") {
                    this.find();
                } else {
                    this.fit();
                    this.draw();
                }
            });
            addEventListener("resize", () => this.fit());
            this.find();
        }

        wire() {
            const { root, search, list } = this;
            search.addEventListener("focus", () => this.open(true));
            search.addEventListener("click", () => this.open(true));
            search.addEventListener("input", () => {
                this.cursor = search.value.trim() ? 0 : -1;
                this.open(true);
                this.find(true);
            });
            root.addEventListener("keydown", (event) => this.key(event));
            root.addEventListener("click", (event) => this.click(event));
            root.querySelector("select").addEventListener("change", (event) => {
                this.order = event.target.value;
                this.find(true);
            });
            list.addEventListener("scroll", () => this.draw(), { passive: true });
            new ResizeObserver(() => this.draw()).observe(list);
            document.addEventListener("pointerdown", (event) => root.contains(event.target) || this.open(false));
            document.addEventListener("focusin", (event) => root.contains(event.target) || this.open(false));
        }

        // Below 900 and from 1600 pixels on the library stays open; style.css shows it there anyway.
        open(open) {
            this.root.classList.toggle("blocktrain-is-open", open);
            this.search.setAttribute("aria-expanded", String(open));
            if (open) {
                this.fit();
                this.draw();
            }
        }

        // The library ends above the window's lower edge; where it stands in the page, style.css sets its height.
        fit() {
            const box = this.root.querySelector(".blocktrain-library");
            box.style.maxHeight = "";
            if (getComputedStyle(box).position === "absolute") {
                box.style.maxHeight = `${Math.max(LEAST, innerHeight - box.getBoundingClientRect().top - 12)}px`;
            }
        }

        find(toTop = false) {
            const { store, why, recent } = blocktrain.loras;
            const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
            const last = this.which === "recent" ? recent() : [];
            const wanted = {
                all: () => true,
                recent: (file) => last.includes(file.key),
                ours: (file) => file.ours,
                broken: (file) => file.problem && !file.foreign,
            }[this.which];
            const at = this.found[this.cursor]?.key;
            this.found = [...store.files.values()].filter(
                (file) => wanted(file) && words.every((word) => file.words.includes(word))
            );
            if (this.which === "recent") {
                this.found.sort((a, b) => last.indexOf(a.key) - last.indexOf(b.key));
            } else if (this.order === "time") {
                this.found.sort((a, b) => b.time - a.time);
            }
            this.found.sort((a, b) => Boolean(why(a)) - Boolean(why(b))); // what can be used comes first
            if (toTop) {
                this.list.scrollTop = 0;
                this.cursor = Math.min(this.cursor, this.found.length - 1);
            } else {
                this.cursor = this.found.findIndex((file) => file.key === at);
            }
            this.tell();
            this.draw();
        }

        // The counts, and what to do where nothing is listed.
        tell() {
            const { store } = blocktrain.loras;
            const files = [...store.files.values()];
            const count = (which) => files.filter(which).length;
            const known = count((file) => file.known);
            const foreign = count((file) => file.foreign);
            const broken = count((file) => file.problem && !file.foreign);
            const parts = [`${files.length} files`];
            if (store.received && !store.complete && known < files.length) {
                parts.push(`reading ${known} of ${files.length}`);
            }
            if (foreign) {
                parts.push(`${foreign} for other models`);
            }
            if (broken) {
                parts.push(`${broken} cannot be read`);
            }
            this.root.querySelector(".blocktrain-library").style.setProperty("--blocktrain-files", files.length);
            const foot = this.root.querySelector(".blocktrain-lib-foot");
            foot.firstElementChild.textContent = store.received ? parts.join(" · ") : "Listing the folders …";
            foot.firstElementChild.title = store.folders.join("\n");
            foot.querySelector("[data-which=broken]").hidden = !broken || this.which === "broken";
            for (const button of this.root.querySelectorAll("[data-which]")) {
                button.setAttribute("aria-pressed", String(button.dataset.which === this.which));
            }
            this.root.querySelector("[data-which=all]").textContent = store.received ? `All ${files.length}` : "All";
            const none = this.root.querySelector(".blocktrain-lib-none");
            none.hidden = this.found.length > 0 || !store.received;
            none.textContent = !files.length
                ? `There is no .safetensors file in ${store.folders.join(", ")}`
                : this.search.value.trim() || this.which === "broken"
                  ? `No LoRA matches “${this.search.value.trim()}”`
                  : { recent: "What you add is listed here", ours: "None of these was trained here" }[this.which] || "";
        }

        draw() {
            const { list, all, found } = this;
            all.style.height = `${found.length * ROW}px`;
            if (!list.clientHeight) {
                return;
            }
            const first = Math.max(0, Math.floor(list.scrollTop / ROW) - AROUND);
            const end = Math.min(found.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + AROUND);
            const before = new Map([...all.children].map((row) => [row.dataset.key, row]));
            const rows = [];
            for (let index = first; index < end; index += 1) {
                const kept = before.get(found[index].key);
                const row = kept && kept.file === found[index] ? kept : this.row(found[index]);
                this.mark(row, index);
                rows.push(row);
            }
            const focus = all.contains(document.activeElement);
            if (rows.length !== all.children.length || rows.some((row, index) => row !== all.children[index])) {
                all.replaceChildren(...rows);
            }
            if (focus && !all.contains(document.activeElement)) {
                this.search.focus({ preventScroll: true });
            }
            const current = rows.find((row) => row.classList.contains("blocktrain-is-cursor"));
            if (current) {
                this.search.setAttribute("aria-activedescendant", current.id);
            } else {
                this.search.removeAttribute("aria-activedescendant");
            }
        }

        row(file) {
            const row = document.createElement("div");
            row.className = "blocktrain-lora";
            row.file = file;
            row.dataset.key = file.key;
            row.setAttribute("role", "option");
            const title = document.createElement("div");
            title.className = "blocktrain-lora-t";
            title.append(document.createElement("b"), document.createElement("small"));
            title.firstChild.textContent = file.name;
            row.title = file.problem ? `${file.key}\n${file.problem}` : file.key;
            const sign = document.createElement("span");
            sign.className = "blocktrain-lora-add";
            sign.setAttribute("aria-hidden", "true");
            row.append(blocktrain.loras.thumbnail(file.key, file), title, sign);
            return row;
        }

        mark(row, index) {
            const { why, has, store } = blocktrain.loras;
            const file = row.file;
            const reason = why(file);
            const facts = [file.title, file.algorithm !== "lora" && file.algorithm, file.rank];
            facts.push(file.known && `${file.blocks} blocks`, file.ours && "trained here");
            const said = file.known ? reason || facts.filter(Boolean).join(" · ") : store.received ? "reading …" : "";
            const text = [said, file.folder].filter(Boolean).join(" · ");
            blocktrain.setText(row.querySelector("small"), text);
            row.id = `blocktrain_lora_${index}`;
            row.style.top = `${index * ROW}px`;
            row.classList.toggle("blocktrain-is-no", Boolean(reason));
            row.classList.toggle("blocktrain-is-cursor", index === this.cursor);
            row.classList.toggle("blocktrain-is-card", file.key === this.card);
            row.classList.toggle("blocktrain-is-in", has(file.key));
            row.setAttribute("aria-selected", String(has(file.key)));
            row.setAttribute("aria-disabled", String(Boolean(file.problem)));
            row.setAttribute("aria-posinset", String(index + 1));
            row.setAttribute("aria-setsize", String(this.found.length));
            row.setAttribute("aria-label", `${file.name}, ${text}`);
        }

        // --- what is pressed --------------------------------------------------------------------------------------

        click(event) {
            const which = event.target.closest("[data-which]");
            const row = event.target.closest(".blocktrain-lib-list .blocktrain-lora");
            if (event.target.closest("[data-act=refresh]")) {
                document.querySelector("button#blocktrain_refresh, #blocktrain_refresh button")?.click();
            } else if (which) {
                this.which = which.dataset.which;
                this.cursor = -1;
                this.find(true);
            } else if (event.target.closest("[data-act=close]")) {
                this.showCard(null);
            } else if (event.target.closest("[data-act=add]")) {
                this.toggle(this.card);
            } else if (row) {
                this.cursor = this.found.findIndex((file) => file.key === row.dataset.key);
                this.list.focus({ preventScroll: true }); // for the keys
                if (event.target.closest(".blocktrain-lora-add")) {
                    this.toggle(row.dataset.key);
                } else {
                    this.showCard(row.dataset.key === this.card ? null : row.dataset.key);
                }
                this.draw();
            }
        }

        key(event) {
            if (!event.target.closest(".blocktrain-search, .blocktrain-library") || event.target.matches("select")) {
                return;
            }
            const page = Math.max(1, Math.floor(this.list.clientHeight / ROW) - 1);
            const typed = event.target === this.search && this.search.value;
            const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page };
            if (!typed) {
                Object.assign(moves, { Home: -Infinity, End: Infinity });
            }
            if (event.key in moves && !event.ctrlKey && !event.metaKey) {
                const to = this.cursor < 0 ? (moves[event.key] > 0 ? 0 : -1) : this.cursor + moves[event.key];
                this.cursor = Math.min(Math.max(to, -1), this.found.length - 1);
                this.reveal();
            } else if (event.key === "Enter" && !event.target.closest("button") && this.found[this.cursor]) {
                this.toggle(this.found[this.cursor].key);
            } else if (event.key === "ArrowRight" && this.found[this.cursor] && !typed) {
                this.showCard(this.found[this.cursor].key);
            } else if (event.key === "Escape") {
                this.escape();
            } else {
                return;
            }
            event.preventDefault();
            event.stopPropagation();
        }

        // One thing at a time: the card, what was typed, the library.
        escape() {
            if (this.card !== null) {
                this.showCard(null);
                this.search.focus();
            } else if (this.search.value) {
                this.search.value = "";
                this.cursor = -1;
                this.find(true);
            } else {
                this.open(false);
                this.search.blur();
            }
        }

        reveal() {
            const top = this.cursor * ROW;
            if (this.cursor < 0 || top < this.list.scrollTop) {
                this.list.scrollTop = Math.max(top, 0);
            } else if (top + ROW > this.list.scrollTop + this.list.clientHeight) {
                this.list.scrollTop = top + ROW - this.list.clientHeight;
            }
            this.draw();
        }

        toggle(key) {
            const { store, has, add, remove } = blocktrain.loras;
            if (has(key)) {
                remove(key);
            } else if (!store.files.get(key)?.problem) {
                add(key);
            } else {
                this.showCard(key);
            }
            this.drawCardHead();
        }

        // --- the card ---------------------------------------------------------------------------------------------

        showCard(key) {
            blocktrain.loras.answered("card", this.card); // what was asked before matters no more
            this.card = key;
            const card = this.root.querySelector(".blocktrain-lib-card");
            card.hidden = key === null;
            this.root.querySelector(".blocktrain-lib-body").classList.toggle("blocktrain-has-card", key !== null);
            if (key !== null) {
                card.lastElementChild.textContent = "reading …";
                this.drawCardHead();
                blocktrain.loras.ask({ card: key });
            }
            this.draw();
            if (key !== null) {
                this.reveal();
            }
        }

        drawCardHead() {
            if (this.card === null) {
                return;
            }
            const { store, has, thumbnail, why } = blocktrain.loras;
            const file = store.files.get(this.card);
            const head = this.root.querySelector(".blocktrain-lib-card-h");
            const name = document.createElement("b");
            name.title = this.card;
            const words = document.createElement("span");
            words.textContent = file?.name || this.card;
            const buttons = document.createElement("span");
            buttons.className = "blocktrain-lib-card-do";
            buttons.innerHTML =
                '<button type="button" class="blocktrain-btn" data-act="add"></button>' +
                '<button type="button" class="blocktrain-btn blocktrain-is-quiet" data-act="close">Close</button>';
            buttons.firstChild.textContent = has(this.card) ? "Remove" : "Add";
            buttons.firstChild.disabled = Boolean(file?.problem);
            const small = document.createElement("small");
            small.textContent = [why(file) && !file.problem ? why(file) : "", file?.folder].filter(Boolean).join(" · ");
            name.append(words, small);
            head.replaceChildren(thumbnail(this.card, file), name, buttons);
        }

        take(element) {
            blocktrain.loras.answered("card", element.dataset.key);
            if (element.dataset.key === this.card) {
                const body = this.root.querySelector(".blocktrain-lib-card-b");
                body.replaceChildren(...[...element.children].map((part) => part.cloneNode(true)));
            }
        }
    }

    let library = null;

    // --- buttons of a card: into the prompt, strength, weights --------------------------------------------------------

    const SAID = 1500; // milliseconds for which a button says what it did
    const labels = new WeakMap(); // of buttons that say it: their own

    // What stands between the commas of a prompt, without emphasis: "(cat:1.2)" is "cat".
    const partsOf = (prompt) => prompt.split(/[,\n]/).map((part) => part.replace(/^[\s([]+|(:[\d.]+)?[\s)\]]+$/g, "")).filter(Boolean);

    function type(id, text) {
        const box = document.querySelector(`#${id} textarea, #${id} input`);
        if (!box || partsOf(text).every((part) => partsOf(box.value).includes(part))) {
            return false;
        }
        box.value = box.value.trim() ? `${box.value.trim().replace(/,$/, "")}, ${text}` : text;
        box.dispatchEvent(new Event("input", { bubbles: true }));
        return true;
    }

    function use(button) {
        const { store, set, has, add } = blocktrain.loras;
        const value = button.dataset.value;
        const key = library?.root.contains(button) ? library.card : store.active;
        let done = "there already";
        if (button.dataset.use === "prompt" || button.dataset.use === "negative") {
            done = type(`blocktrain_${button.dataset.use}`, value) ? "added" : done;
        } else if (button.dataset.use === "strength") {
            has(key) || add(key);
            set(key, { strength: Math.min(Math.max(Number(value), -2), 2) });
            done = "set";
        } else if (key === store.active) {
            blocktrain.loras.whenShown(() => blocktrain.uMap.apply("blocktrain_u_weights", { name: "", ...JSON.parse(value) }));
            done = "set";
        } else {
            done = "make it active first";
        }
        labels.has(button) || labels.set(button, button.textContent);
        button.textContent = done;
        setTimeout(() => (button.textContent = labels.get(button)), SAID);
    }

    blocktrain.components ||= new Map();
    blocktrain.components.set("blocktrain-picker", (element) => (library = new Library(element)));
    blocktrain.components.set("blocktrain-lora-card", (element) => library?.take(element));

    document.addEventListener("click", (event) => {
        const button = event.target.closest?.("#blocktrain :is(.blocktrain-lora-card, .blocktrain-lib-card) [data-use]");
        if (button) {
            use(button);
        }
    });
})();
