// Says in the page that the server does not answer, what to do, and when it is back: gradio's own words, "Connection
// errored out", say none of it, and come only when a button was pressed. Asks only from then on, until there is an answer.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = window.blocktrain || {});
    const AGAIN = 2000; // milliseconds between two questions
    const BACK = 6000; // how long the good news stands
    const GONE =
        "The server does not answer. Start it again: this page goes on, with all that is set in it. " +
        "A run that was being trained goes on from its last save.";
    const ERRORS = ".toast-body.error, .toast-wrap .error";
    const heard = new WeakSet(); // gradio's messages that were looked into
    let asking = false;

    async function answers() {
        try {
            return (await fetch(location.pathname, { method: "HEAD", cache: "no-store" })).status < 500;
        } catch {
            return false;
        }
    }

    function banner(text, gone) {
        const tab = document.getElementById("blocktrain");
        let shown = document.getElementById("blocktrain_server_gone");
        if (!shown) {
            shown = document.createElement("p");
            shown.id = "blocktrain_server_gone";
            shown.setAttribute("role", "alert");
            tab.prepend(shown);
        }
        shown.classList.toggle("blocktrain-gone", gone);
        shown.textContent = text;
        return shown;
    }

    async function look() {
        if (asking || (await answers())) {
            return;
        }
        asking = true;
        banner(GONE, true);
        while (!(await answers())) {
            await new Promise((wake) => setTimeout(wake, AGAIN));
        }
        asking = false;
        const shown = banner("The server is back.", false);
        setTimeout(() => asking || shown.remove(), BACK);
    }

    (blocktrain.pageChanged ||= new Set()).add(() => {
        for (const message of document.querySelectorAll(ERRORS)) {
            if (!heard.has(message) && document.getElementById("blocktrain")) {
                heard.add(message);
                look();
            }
        }
    });
})();
