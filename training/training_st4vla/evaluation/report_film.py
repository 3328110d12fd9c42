"""Films in a report: a video, the plot of the same seconds, and a line in it that follows."""

import base64
import hashlib
import io

SCRIPT = """
for (const film of document.querySelectorAll("figure.film")) {
  const video = film.querySelector("video"), plot = film.querySelector(".plot"), line = film.querySelector(".cursor");
  const [left, right, from, to] = film.dataset.extent.split(" ").map(Number);
  const place = () => {
    const share = Math.min(Math.max((video.currentTime - from) / (to - from), 0), 1);
    line.style.left = 100 * (left + share * (right - left)) + "%";
  };
  const follow = () => { place(); if (!video.paused) requestAnimationFrame(follow); };
  video.addEventListener("play", follow);
  for (const event of ["timeupdate", "seeked", "loadedmetadata"]) video.addEventListener(event, place);
  plot.addEventListener("click", (event) => {
    const box = plot.getBoundingClientRect();
    const share = ((event.clientX - box.left) / box.width - left) / (right - left);
    video.currentTime = from + Math.min(Math.max(share, 0), 1) * (to - from);
  });
  place();
}
"""
_HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
POLICY = (
    "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
    f"script-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'"
)
_MP4 = b"ftyp"


def video_tag(video: bytes) -> str:
    """Markup of an embedded film; raises ValueError for bytes that are no MP4."""
    if video[4:8] != _MP4:
        raise ValueError("A film must be MP4.")
    source = f"data:video/mp4;base64,{base64.b64encode(video).decode('ascii')}"
    return f'<video controls muted playsinline preload="metadata" src="{source}"></video>'


def reduce_video(video: bytes, scale: float) -> bytes:
    """An H.264 MP4 with `scale` times the width and height (even numbers), the same pictures at the same times."""
    if scale >= 1:
        return video
    import av

    out = io.BytesIO()
    with av.open(io.BytesIO(video), "r") as source, av.open(out, "w", format="mp4") as target:
        shown = source.streams.video[0]
        stream = target.add_stream("libx264", rate=shown.average_rate, options={"crf": "26", "preset": "veryfast"})
        stream.width, stream.height = (max(2, round(side * scale / 2) * 2) for side in (shown.width, shown.height))
        stream.pix_fmt = "yuv420p"
        for frame in source.decode(shown):
            image = frame.to_image().resize((stream.width, stream.height))
            target.mux(stream.encode(av.VideoFrame.from_image(image)))
        target.mux(stream.encode())
    return out.getvalue()


def film_figure(
    video: bytes, picture: str, extent: tuple[float, float, float, float], fps: float, caption: str
) -> str:
    """
    Markup of a film above its plot.

    Args:
        video (`bytes`): MP4. picture (`str`): the plot as an `<img>`. caption (`str`): a `<figcaption>`, or nothing.
        extent: where the time axis begins and ends, as shares of the plot's width, and its seconds there.
        fps (`float`): one picture's time is shown at its beginning, so the film is half a picture early.

    Raises:
        ValueError: for bytes that are no MP4, or a rate that is not positive.
    """
    if not fps > 0:
        raise ValueError(f"`fps` must be positive, found {fps}.")
    numbers = " ".join(f"{value:.5f}" for value in extent)
    return (
        f'<figure class="film" data-extent="{numbers}">{video_tag(video)}'
        f'<div class="plot">{picture}<span class="cursor"></span></div>{caption}</figure>'
    )


__all__ = ["POLICY", "SCRIPT", "film_figure", "reduce_video", "video_tag"]
