"""Drawings as SVG, whose colours the page decides, and as PNG, which is light."""

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reports.figures.canvas import Area, Drawing, Grey, Line, Shape, Text, font

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

# Okabe and Ito's palette, safe for the colour-blind; grey replaces their yellow, which is pale on white.
SERIES_LIGHT = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B87B00", "#3D9BD4", "#1F2328", "#7A7A7A")
SERIES_DARK = ("#56B4E9", "#F08A4B", "#2BC89B", "#E09CC3", "#E6B333", "#8CCBF2", "#F0F3F6", "#9AA4AE")
LIGHT = {"ink": "#1f2328", "muted": "#59636e", "grid": "#d8dee4", "back": "#ffffff"}
LIGHT |= {str(i): colour for i, colour in enumerate(SERIES_LIGHT)}
DARK = {"ink": "#e6edf3", "muted": "#9da7b1", "grid": "#30363d", "back": "#0d1117"}
DARK |= {str(i): colour for i, colour in enumerate(SERIES_DARK)}
SHARPNESS = 1.5  # pixels of a PNG for one of the drawing
COMPRESSION = 4  # of a PNG; more takes twice the time for a few per cent


def svg(drawing: Drawing, alt: str) -> str:
    """``drawing`` as an SVG element with the text alternative ``alt``, in the colours of ``stylesheet``."""
    parts = "".join(map(_svg_shape, drawing.shapes))
    size = f'viewBox="0 0 {drawing.width:.0f} {drawing.height:.0f}" width="{drawing.width:.0f}"'
    return f'<svg class="plot" role="img" aria-label="{escape(alt)}" {size}>{parts}</svg>'


def stylesheet() -> str:
    """CSS of the classes that ``svg`` uses: colours as variables, light by default and dark where the reader's is."""
    light, dark = ("".join(f"--c-{name}:{value};" for name, value in colours.items()) for colours in (LIGHT, DARK))
    names = "".join(f".f-{name}{{fill:var(--c-{name})}}.s-{name}{{stroke:var(--c-{name})}}" for name in LIGHT)
    return (
        f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
        ".plot{max-width:100%;height:auto;font-family:'DejaVu Sans',Verdana,sans-serif}.plot .l{fill:none}"
        f".plot .h{{fill:var(--c-back);stroke-width:1.5}}{names}"
    )


def _svg_shape(shape: Shape) -> str:
    match shape:
        case Line(points, colour, width, dashed):
            dash = ' stroke-dasharray="5 4"' if dashed else ""
            return f'<path class="l s-{colour}" stroke-width="{width:g}"{dash} d="{_path(points)}"/>'
        case Area(points, colour, opacity, hollow, tip):
            name = f"h s-{colour}" if hollow else f"f-{colour}"
            faint = f' opacity="{opacity:g}"' if opacity < 1 else ""
            path = f'<path class="{name}"{faint} d="{_path(points)}Z"'
            return f"{path}><title>{escape(tip)}</title></path>" if tip else f"{path}/>"
        case Text(x, y, text, size, anchor, colour, bold):
            where = "" if anchor == "start" else f' text-anchor="{anchor}"'
            weight = ' font-weight="bold"' if bold else ""
            place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size:g}"'
            return f'<text class="f-{colour}" {place}{where}{weight}>{escape(text, quote=False)}</text>'
        case Grey(x, y, width, height, rows):
            place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
            look = 'preserveAspectRatio="none" style="image-rendering:pixelated"'
            return f'<image {place} {look} href="{_data_url(rows)}"/>'


def _path(points: tuple[tuple[float, float], ...]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _data_url(rows: Any) -> str:
    import base64  # noqa: PLC0415
    import io  # noqa: PLC0415

    file = io.BytesIO()
    _grey(rows).save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _grey(rows: Any) -> "Image":
    import numpy as np  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415

    return Image.fromarray((255 * np.clip(np.array(rows), 0, 1)).astype(np.uint8))


def write_png(drawing: Drawing, path: Path) -> None:
    """Paint ``drawing`` into the PNG file ``path``: smooth shapes by matplotlib's renderer, then texts and pictures."""
    import numpy as np  # noqa: PLC0415  (with the next two half a second)
    from matplotlib.backends.backend_agg import RendererAgg  # noqa: PLC0415
    from PIL import Image, ImageDraw  # noqa: PLC0415

    size = round(SHARPNESS * drawing.width), round(SHARPNESS * drawing.height)
    renderer: Any = RendererAgg(*size, 72)  # type: ignore[no-untyped-call]  # matplotlib types no renderer
    np.asarray(renderer.buffer_rgba())[:] = 255
    for shape in drawing.shapes:
        if isinstance(shape, Line | Area):
            _paint(renderer, shape)
    image = Image.fromarray(np.asarray(renderer.buffer_rgba())[..., :3])
    draw = ImageDraw.Draw(image)
    for shape in drawing.shapes:
        if isinstance(shape, Text):
            _write(draw, shape)
        elif isinstance(shape, Grey):
            size = round(SHARPNESS * shape.width), round(SHARPNESS * shape.height)
            grey = _grey(shape.rows).resize(size, Image.Resampling.NEAREST)
            image.paste(grey, (round(SHARPNESS * shape.x), round(SHARPNESS * shape.y)))
    image.save(path, compress_level=COMPRESSION)


def _paint(renderer: Any, shape: Line | Area) -> None:
    from matplotlib.colors import to_rgba  # noqa: PLC0415
    from matplotlib.path import Path as Outline  # noqa: PLC0415
    from matplotlib.transforms import IdentityTransform  # noqa: PLC0415

    context = renderer.new_gc()
    points = [(SHARPNESS * x, renderer.height - SHARPNESS * y) for x, y in shape.points]
    fill = None
    if isinstance(shape, Line):
        context.set_linewidth(SHARPNESS * shape.width)
        if shape.dashed:
            context.set_dashes(0, [5 * SHARPNESS, 4 * SHARPNESS])
    else:
        points.append(points[0])
        context.set_linewidth(SHARPNESS * 1.5 if shape.hollow else 0)
        fill = to_rgba(LIGHT["back"] if shape.hollow else LIGHT[shape.colour], shape.opacity)
        context.set_alpha(shape.opacity)
    context.set_foreground(LIGHT[shape.colour])
    renderer.draw_path(context, Outline(points), IdentityTransform(), fill)


def _write(draw: "ImageDraw", shape: Text) -> None:
    anchor = {"start": "ls", "middle": "ms", "end": "rs"}[shape.anchor]
    place = round(SHARPNESS * shape.x), round(SHARPNESS * shape.y)
    face = font(round(SHARPNESS * shape.size), shape.bold)
    draw.text(place, shape.text, fill=LIGHT[shape.colour], font=face, anchor=anchor)
