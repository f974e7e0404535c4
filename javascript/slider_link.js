// Reads and moves a set of gradio sliders from other scripts, in the page alone.
//
// gradio 3.41 and 4.40 keep a slider's value in the page and send it with the next event. Their range input is bound both
// ways: an `input` event makes its content the component's value (without a request, since the tab does not listen to
// moving sliders); `pointerup` means that it was released (sent to the server only where it listens to "release").
// When the server or the number box changes the value, gradio sets the property `value`, which fires no event; so this
// property is watched on each input.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const native = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value");
    const listeners = new WeakMap(); // input -> functions to call when its value has changed, with whether from outside

    // Whether the user has just typed a value into the slider's number box, from where gradio sets the range input.
    const typed = (input) => input.closest(".block")?.querySelector("input[type=number]") === document.activeElement;

    function watch(input, listener) {
        if (!listeners.has(input)) {
            const heard = new Set();
            listeners.set(input, heard);
            const tell = (outside) => heard.forEach((call) => call(outside));
            Object.defineProperty(input, "value", {
                configurable: true,
                enumerable: true,
                get() {
                    return native.get.call(this);
                },
                set(value) {
                    const before = native.get.call(this);
                    native.set.call(this, value);
                    tell(native.get.call(this) !== before && !typed(this));
                },
            });
            input.addEventListener("input", () => tell(false));
            const observer = new MutationObserver(() => tell(false));
            observer.observe(input, { attributeFilter: ["disabled", "min", "max"] });
        }
        listeners.get(input).add(listener);
    }

    class SliderLink {
        // Sliders whose ids are `prefix` + a name; `changed` is called when any of their values has changed, with
        // whether the value came from elsewhere than a hand on this slider or `write`.
        constructor(prefix, names, changed) {
            this.prefix = prefix;
            this.names = names;
            this.changed = changed;
            this.inputs = new Map();
            this.names.forEach((name) => this.input(name));
        }

        // The range input; looked up again if gradio has replaced it.
        input(name) {
            let input = this.inputs.get(name);
            if (!input || !input.isConnected) {
                input = document.querySelector(`[id="${this.prefix}${name}"] input[type=range]`);
                if (input) {
                    watch(input, this.changed);
                }
                this.inputs.set(name, input);
            }
            return input;
        }

        // Whether every slider is in the page: gradio adds them one after the other, and may replace them.
        complete() {
            return this.names.every((name) => this.inputs.get(name)?.isConnected);
        }

        detach() {
            this.inputs.forEach((input) => input && listeners.get(input).delete(this.changed));
        }

        can(name) {
            const input = this.input(name);
            return Boolean(input) && !input.disabled;
        }

        read(name) {
            const input = this.input(name);
            return input ? Number(input.value) : null;
        }

        range() {
            const input = this.names.map((name) => this.input(name)).find(Boolean);
            return input ? [Number(input.min), Number(input.max)] : [-1, 2];
        }

        // A value finer than the slider's step becomes the component's as it is; the range input shows the nearest.
        write(name, value) {
            const input = this.input(name);
            if (input && Number(input.value) !== value) {
                const { step } = input;
                input.step = "any"; // else the input would round it
                native.set.call(input, value);
                input.dispatchEvent(new Event("input", { bubbles: true }));
                input.step = step;
                native.set.call(input, native.get.call(input));
            }
        }

        released(name) {
            this.input(name)?.dispatchEvent(new PointerEvent("pointerup", { bubbles: true }));
        }
    }

    blocktrain.SliderLink = SliderLink;
})();
