// The place Runs asks again while it is in view: by its own button, and only after the last answer has come, so that no
// question waits behind another on a slow server. The answer says how long to wait until the next one.
(() => {
    "use strict";

    const LOST = 60000; // milliseconds after which an answer is not waited for any more
    let asked = 0;
    let heard = null;

    function ask() {
        const root = typeof gradioApp === "function" ? gradioApp() : document;
        const button = root.querySelector("#blocktrain_runs_tick");
        const place = root.querySelector("#blocktrain_runs_list");
        if (!button || !place || document.hidden || place.offsetParent === null) {
            return;
        }
        const beat = root.querySelector("#blocktrain_runs_beat [data-beat]");
        const now = Date.now();
        const answered = !beat || beat.dataset.beat !== heard;
        if (now - asked < (answered ? Number(beat ? beat.dataset.next : 1500) : LOST)) {
            return;
        }
        heard = beat ? beat.dataset.beat : null;
        asked = now;
        button.click();
    }

    setInterval(ask, 500);
})();
