// "To share" shows the text written by Copy. It is marked when the sliders have changed since, so that outdated weights
// are not shared by mistake.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = window.blocktrain || {});
    const PREFIX = "blocktrain_w_";
    let link = null; // to the sliders, once something was copied
    let copied = "";

    const weights = () => link.names.map((name) => link.read(name)).join();

    function mark() {
        const label = document.querySelector("#blocktrain_line label");
        if (weights() === copied) {
            label?.removeAttribute("data-older");
        } else {
            label?.setAttribute("data-older", "of other weights");
        }
    }

    // Copies the line to the clipboard, and remembers the weights that it was made from.
    blocktrain.share = (line) => {
        const names = [...document.querySelectorAll(`[id^="${PREFIX}"]`)].map((slider) => slider.id.slice(PREFIX.length));
        link?.detach();
        link = new blocktrain.SliderLink(PREFIX, [...new Set(names)], mark);
        copied = weights();
        mark();
        blocktrain.copy(line);
    };
})();
