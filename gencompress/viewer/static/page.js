// Starts the viewer on the scene of this page: the one within it, or the file beside it.
(async () => {
  const [holder, message, inline] = ["viewer", "message", "scene"].map((id) => document.getElementById(id));
  const fail = (error) => {
    holder.hidden = true;
    message.className = "failed";
    message.textContent = `This scene cannot be shown here: ${error?.message ?? error}\n` +
      (location.protocol === "file:" && !inline
        ? "Pages that are opened from disk may not read the files beside them: serve this folder with `gencompress view`."
        : "A browser with WebGL 2 is needed.");
  };
  const named = new URLSearchParams(location.search);

  // Base64 in slices, so that a large scene is never held twice as text.
  const decoded = (text) => {
    const parts = [];
    for (let start = 0; start < text.length; start += 1 << 20) {
      const characters = atob(text.slice(start, start + (1 << 20)));
      const bytes = new Uint8Array(characters.length);
      for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
      parts.push(bytes);
    }
    return new Blob(parts);
  };
  const content = async (name) => {
    if (!inline) return fetch(name);
    const blob = decoded(inline.textContent);
    inline.remove();
    return new Response(blob, { headers: { "content-length": String(blob.size) } });
  };
  const read = async () => {
    const element = document.getElementById("settings");
    return element ? JSON.parse(element.textContent) : (await fetch("settings.json")).json();
  };

  // Settings give the field of view across the smaller side of the window, the viewer wants it across the larger one.
  const fitted = (settings) => {
    const long = Math.max(innerWidth, innerHeight), short = Math.max(1, Math.min(innerWidth, innerHeight));
    const widen = (fov) => Math.min(120, Math.atan(Math.tan(fov * Math.PI / 360) * long / short) * 360 / Math.PI);
    for (const { initial } of [...settings.cameras, ...settings.annotations.map((a) => a.camera)]) {
      initial.fov = widen(initial.fov);
    }
    for (const { keyframes } of settings.animTracks) keyframes.values.fov = keyframes.values.fov.map(widen);
    return settings;
  };

  try {
    const settings = fitted(await read());
    const viewer = await supersplat.createViewer({
      container: holder,
      settings,
      contentUrl: settings.scene.name,
      contents: content(settings.scene.name),
      renderer: named.has("webgl") ? "webgl" : "webgpu",
      noanim: true,
    });
    // The viewer turns every scene as one whose y axis points down. Scenes with another up say how they stand upright.
    const { assets, root } = viewer.app, add = root.addChild;
    assets.once("error", fail);
    root.addChild = (node) => {
      if (node.name === "gsplat") node.setLocalRotation(...settings.scene.rotation);
      return add.call(root, node);
    };
    const shown = () => {
      message.remove();
      viewer.state.cameraMode = "orbit"; // from the start pose, with the tour a button away
      document.documentElement.dataset.shown = "true";
    };
    if (viewer.state.loaded) shown();
    else viewer.events.once("loaded:changed", shown);
  } catch (error) {
    fail(error);
  }
})();
