// Pointer, wheel and keyboard on the U map; u_map.js holds the state that they change.
//
// A handle (IN, OUT, a level) moves its blocks together and keeps their differences, as a drag of selected blocks does.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const UNIT = 54; // pixels of a drag for a weight of 1
    const COARSE = 0.05;
    const FINE = 0.01;
    const LEAP = 0.25;
    const STILL = 3; // pixels that a click may move
    const NOTCH = 100; // pixels of one notch of a wheel
    const SCROLLING = 350; // ms for which a scrolling page keeps the wheel, even if a block comes under the pointer
    const TYPING = 1200; // ms after which a typed digit starts a new number

    const grid = (value, step) => Math.round(value / step) * step;
    let pageScrolled = -Infinity;
    document.addEventListener(
        "wheel",
        (event) => {
            if (!event.target.closest?.(".blocktrain-u-block, .blocktrain-u-handle")) {
                pageScrolled = event.timeStamp;
            }
        },
        { capture: true, passive: true },
    );

    class Hands {
        constructor(map) {
            this.map = map;
            this.typed = "";
            this.numbered = null; // the block where a number is being typed, until another key; Enter ends it there
            const plane = map.plane;
            plane.addEventListener("pointerdown", (event) => this.press(event));
            plane.addEventListener("dblclick", (event) => this.toggle(event));
            plane.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
            plane.addEventListener("keydown", (event) => this.key(event));
            plane.addEventListener("focusin", (event) => this.focus(event.target.closest(".blocktrain-u-block")));
            plane.addEventListener("focusout", () => this.blur());
            plane.addEventListener("pointerover", (event) => this.point(event.target.closest(".blocktrain-u-block")));
            plane.addEventListener("pointerleave", () => this.point(null));
            const first = map.ids.find((id) => !map.blocks.get(id).dataset.absent) || map.ids[0];
            map.blocks.get(map.focused && map.blocks.has(map.focused) ? map.focused : first).tabIndex = 0;
            this.ending = new AbortController();
            const { signal } = this.ending;
            document.addEventListener("pointerdown", (event) => this.pressElsewhere(event), { signal, capture: true });
            document.addEventListener("keydown", (event) => this.escape(event), { signal });
        }

        detach() {
            this.ending.abort();
        }

        // A selection ends with a press anywhere but on the map, its tools, and its rows of the table.
        pressElsewhere(event) {
            const { map } = this;
            const own = ".blocktrain-u-block, .blocktrain-u-handle, .blocktrain-u-tools";
            const row = map.rows.idAt(event.target);
            const kept = (map.element.contains(event.target) && event.target.closest(own)) || map.selection.has(row);
            if (map.selection.size && !kept && !(row && event.target.closest("label"))) {
                map.select([]);
            }
        }

        escape(event) {
            if (event.key === "Escape" && !event.defaultPrevented && this.map.selection.size) {
                this.map.select([]);
                event.preventDefault();
            }
        }

        // The blocks that a press on this element moves: the selection if it is in it, else itself; a handle's members.
        moved(element) {
            const { map } = this;
            const id = element.dataset.block;
            const ids = id === undefined ? map.members(element) : map.selection.has(id) ? [...map.selection] : [id];
            return ids.filter((each) => map.can(each));
        }

        target(event) {
            return event.target.closest(".blocktrain-u-block, .blocktrain-u-handle");
        }

        // Moves weights by a difference from their start; a single weight snaps to the grid.
        shift(start, difference, step) {
            const ids = Object.keys(start);
            const alone = ids.length === 1;
            const value = (id) => (alone ? grid(start[id] + difference, step) : start[id] + grid(difference, step));
            this.map.set(Object.fromEntries(ids.map((id) => [id, value(id)])));
        }

        startOf(ids) {
            return Object.fromEntries(ids.map((id) => [id, this.map.weight(id)]));
        }

        // --- pointer ----------------------------------------------------------------------------------------------

        press(event) {
            const { map } = this;
            if (event.button !== 0) {
                return;
            }
            const element = this.target(event);
            if (!element) {
                return;
            }
            map.gesture(element, event.timeStamp);
            const start = this.startOf(this.moved(element));
            const { clientX: x, clientY: y } = event;
            const drag = { element, start, from: [x, y], last: [x, y], difference: 0, fine: false };
            // A finger that moves up or down scrolls the page, one that moves sideways changes the weight; on selected
            // blocks both do (style.css gives them `touch-action`).
            drag.sideways = event.pointerType === "touch" && getComputedStyle(element).touchAction !== "none";
            const listening = new AbortController();
            const options = { signal: listening.signal };
            const end = (how) => {
                listening.abort();
                map.element.classList.remove("blocktrain-u-busy");
                map.held = false;
                how(drag);
            };
            window.addEventListener("pointermove", (moving) => this.drag(moving, drag), options);
            window.addEventListener("pointerup", (up) => end(() => this.letGo(up, drag)), options);
            window.addEventListener("pointercancel", () => end(() => map.settle()), options);
            window.addEventListener(
                "keydown",
                (key) => key.key === "Escape" && end(() => (map.set(drag.start), map.settle())),
                { ...options, capture: true },
            );
        }

        drag(event, drag) {
            const { map } = this;
            const [across, up] = [event.clientX - drag.from[0], drag.from[1] - event.clientY].map(Math.abs);
            if (!drag.moving) {
                if ((drag.sideways ? across : Math.max(across, up)) <= STILL) {
                    return;
                }
                drag.moving = true;
                drag.across = drag.sideways || across > up;
                const id = drag.element.dataset.block;
                if (id !== undefined && !map.selection.has(id)) {
                    map.select([]);
                }
            }
            drag.fine ||= event.shiftKey;
            const moved = drag.across ? event.clientX - drag.last[0] : drag.last[1] - event.clientY;
            drag.difference += (moved / UNIT) * (event.shiftKey ? 0.1 : 1);
            drag.last = [event.clientX, event.clientY];
            map.held = true;
            map.element.classList.add("blocktrain-u-busy");
            this.shift(drag.start, drag.difference, drag.fine ? FINE : COARSE);
        }

        letGo(event, drag) {
            const { map } = this;
            if (drag.moving) {
                map.settle();
                return;
            }
            const id = drag.element.dataset.block;
            if (id === undefined) {
                map.select(map.members(drag.element).filter((each) => map.can(each)));
            } else {
                this.choose(id, event);
            }
        }

        // Selects a block: alone, besides others (Ctrl), or with all from the last one on (Shift).
        choose(id, event) {
            const { map } = this;
            if (event.ctrlKey || event.metaKey) {
                this.selectAlso(id);
            } else if (event.shiftKey && this.anchor) {
                const [from, to] = [map.ids.indexOf(this.anchor), map.ids.indexOf(id)].sort((a, b) => a - b);
                map.select(map.ids.slice(from, to + 1));
            } else {
                this.anchor = id;
                map.select(map.selection.size === 1 && map.selection.has(id) ? [] : [id]);
            }
        }

        selectAlso(id) {
            const { map } = this;
            this.anchor = id;
            map.select(map.selection.has(id) ? [...map.selection].filter((other) => other !== id) : [...map.selection, id]);
        }

        toggle(event) {
            const element = this.target(event);
            if (element) {
                this.toggleAll(element);
            }
        }

        toggleAll(element) {
            const { map } = this;
            const ids = this.moved(element);
            const value = ids.some((id) => map.weight(id) !== 0) ? 0 : 1;
            map.settle();
            map.set(Object.fromEntries(ids.map((id) => [id, value])));
            map.settle();
        }

        point(block) {
            const id = block?.dataset.block;
            if (id !== this.map.under) {
                this.map.under = id;
                this.map.element.classList.remove("blocktrain-u-quiet");
                this.map.draw();
            }
        }

        // --- wheel ------------------------------------------------------------------------------------------------

        wheel(event) {
            const element = this.target(event);
            if (!element || event.ctrlKey || event.metaKey) {
                return;
            }
            if (event.timeStamp - pageScrolled < SCROLLING) {
                pageScrolled = event.timeStamp;
                return;
            }
            event.preventDefault();
            const pixels = (event.deltaY || event.deltaX) * (event.deltaMode ? NOTCH / 3 : 1); // Shift makes the wheel horizontal
            this.turned = (this.turned || 0) + pixels;
            const notches = Math.trunc(this.turned / NOTCH);
            if (notches) {
                this.turned -= notches * NOTCH;
                const step = event.shiftKey ? FINE : COARSE;
                this.map.gesture(element, "wheel");
                this.shift(this.startOf(this.moved(element)), -notches * step, step);
            }
        }

        // --- keyboard ---------------------------------------------------------------------------------------------

        focus(block) {
            const { map } = this;
            map.focused = block?.dataset.block;
            if (block) {
                map.blocks.forEach((other) => (other.tabIndex = other === block ? 0 : -1));
            }
            map.element.classList.remove("blocktrain-u-quiet");
            map.draw();
        }

        blur() {
            if (this.map.element.isConnected) {
                this.map.focused = undefined;
                this.map.draw();
            }
        }

        key(event) {
            const element = this.target(event);
            const command = event.ctrlKey || event.metaKey;
            const done = element && !event.altKey && (command ? this.command(event) : this.change(event, element));
            if (done) {
                event.preventDefault();
                event.stopPropagation();
            }
        }

        command(event) {
            const { map } = this;
            const uses = {
                z: () => map.step(!event.shiftKey),
                y: () => map.step(false),
                a: () => map.select(map.ids.filter((id) => map.can(id))),
            };
            const use = uses[event.key.toLowerCase()];
            use?.();
            return Boolean(use);
        }

        change(event, element) {
            const { map } = this;
            const [low, high] = map.sliders.range();
            const step = event.shiftKey ? FINE : COARSE;
            const move = (difference, of) => this.shift(this.startOf(this.moved(element)), difference, of);
            const put = (value) => map.set(Object.fromEntries(this.moved(element).map((id) => [id, value])));
            const uses = {
                ArrowUp: () => move(step, step),
                ArrowDown: () => move(-step, step),
                PageUp: () => move(LEAP, COARSE),
                PageDown: () => move(-LEAP, COARSE),
                ArrowRight: () => this.go(element, 1),
                ArrowLeft: () => this.go(element, -1),
                Home: () => put(low),
                End: () => put(high),
                Delete: () => put(0),
                Backspace: () => put(0),
                Enter: () => this.toggleAll(element),
                " ": () => (element.dataset.block ? this.selectAlso(element.dataset.block) : map.select(map.members(element))),
                Escape: () => (map.select([]), map.element.classList.add("blocktrain-u-quiet")),
            };
            if (event.key === "Enter" && this.numbered === element) {
                this.numbered = null;
                this.typed = "";
                return true;
            }
            const ofNumber = /^[-\d.,]$/.test(event.key);
            this.numbered = ofNumber ? element : null;
            if (uses[event.key]) {
                map.gesture(element, event.key);
                uses[event.key]();
                return true;
            }
            return ofNumber && this.type(event.key.replace(",", "."), put, low, high);
        }

        // Digits typed in succession form a number, applied from the first digit on.
        type(character, put, low, high) {
            clearTimeout(this.forgetting);
            this.forgetting = setTimeout(() => (this.typed = ""), TYPING);
            this.typed += character;
            this.map.gesture(document.activeElement, "number");
            const value = Number(this.typed);
            if (/\d/.test(this.typed) && Number.isFinite(value)) {
                if (value >= low && value <= high) {
                    put(value);
                } else {
                    this.map.showMessage(`${this.typed}: expected ${low} to ${high}`);
                    this.typed = "";
                }
            }
            return true;
        }

        go(element, by) {
            const { map } = this;
            const here = map.ids.indexOf(element.dataset.block);
            if (here >= 0) {
                map.blocks.get(map.ids[(here + by + map.ids.length) % map.ids.length]).focus();
            }
        }
    }

    blocktrain.handleUMap = (map) => new Hands(map);
})();
