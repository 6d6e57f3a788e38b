// Puts the text of an element on the clipboard. The page is complete without this file: then the buttons stay hidden.
"use strict";

for (const button of document.querySelectorAll("button[data-copy]")) {
  const source = document.getElementById(button.dataset.copy);
  const said = button.nextElementSibling;
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(source.textContent);
      said.textContent = "Copied";
    } catch {
      // No permission, or not a secure address: leave the text selected, ready for the keyboard.
      window.getSelection().selectAllChildren(source);
      said.textContent = "Selected: copy it now";
    }
    window.setTimeout(() => { said.textContent = ""; }, 4000);
  });
}
