// Only one player at a time: a player that starts stops all others, also those that are in no document.
() => {
  const playing = new Set();
  const play = HTMLMediaElement.prototype.play;
  HTMLMediaElement.prototype.play = function (...given) {
    for (const other of playing) if (other !== this) other.pause();
    playing.add(this);
    return play.apply(this, given);
  };
  // A new generation stops the playback, too.
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button && ["Generate", "Again", "Vary"].includes(button.textContent.trim()))
      for (const one of playing) one.pause();
  }, true);
}
