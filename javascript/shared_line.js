// "To share" holds what Copy has written. When the sliders have moved on since, it says so: nobody is to hand on
// weights that are no longer there, and what was copied stays to be seen.
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

    // Put the line on the clipboard, and remember whose it is.
    blocktrain.share = (line) => {
        const names = [...document.querySelectorAll(`[id^="${PREFIX}"]`)].map((slider) => slider.id.slice(PREFIX.length));
        link?.detach();
        link = new blocktrain.SliderLink(PREFIX, [...new Set(names)], mark);
        copied = weights();
        mark();
        blocktrain.copy(line);
    };
})();
