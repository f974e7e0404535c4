// What looks as if it went on, though its end was lost with the connection. When the server responds again it is asked what
// has become of it, until nothing looks so any more (ui/lost_jobs.py). A job goes on while its Cancel can be pressed, or its
// line has a bar.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const PAUSE = 2000; // milliseconds between two looks
    const LOOKS = 5; // at least: gradio may yet show what had arrived before the connection broke
    const CANCELS = ["cancel", "bake_cancel", "analyse_cancel", "probe_cancel", "solve_cancel", "collide_cancel"];
    let asking = false;

    const find = (name, what) => document.querySelector(`${what}#blocktrain_${name}, #blocktrain_${name} ${what}`);
    const wait = (milliseconds) => new Promise((wake) => setTimeout(wake, milliseconds));
    const status = (cancel) => document.getElementById(`blocktrain_${cancel.replace(/cancel$/, "status")}`);

    // What looks as if it went on, each with what is said of it now.
    function going() {
        const goes = (name) => find(name, "button")?.disabled === false || status(name)?.querySelector("progress");
        return new Map(CANCELS.filter(goes).map((name) => [name, status(name)?.innerHTML]));
    }

    // gradio 4 takes its stream for open after the connection broke, and would wait there for all that is started next. Only
    // where a job of ours was lost with it: the WebUI's own pictures come by the same stream.
    const closeStream = () => find("lost_stream", "button")?.click();

    async function ask() {
        if (asking) {
            return;
        }
        asking = true;
        let now = going();
        for (let look = 0; look < LOOKS || now.size; look++) {
            const before = now;
            await wait(PAUSE);
            now = going();
            const still = [...now.keys()].filter((name) => now.get(name) === before.get(name)); // no news: it may be lost
            if (still.length) {
                const box = find("lost_ask", "textarea") || find("lost_ask", "input");
                box.value = still.join(" ");
                box.dispatchEvent(new Event("input", { bubbles: true }));
                await wait(30); // until gradio has read the box
                find("lost_tick", "button").click();
            }
        }
        asking = false;
    }

    document.addEventListener("blocktrain:back", ask);
    (blocktrain.components ||= new Map()).set("blocktrain-lost", closeStream);
})();
