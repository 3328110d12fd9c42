"""One episode's scene as MJCF, written in code: table, lights, cameras, robot, and the items on the table."""

from __future__ import annotations

from dataclasses import dataclass, field

from .engine import MjModel, mujoco
from .objects import COLORS, Item
from .robot import actuators, robot_body
from .textures import material_texture, table_texture

TIMESTEP = 0.004
"""Simulation step, seconds."""
TABLE_GEOM = "table"
FLOOR_GEOM = "floor"
CAMERAS: tuple[str, str] = ("front", "wrist")
MAX_IMAGE_SIZE = 640
FINE = 2
"""Boxes are measured in renderings of this many times the image's size."""
WORKSPACE: tuple[tuple[float, float], tuple[float, float]] = ((0.30, 0.62), (-0.25, 0.25))
"""Where items may lie: (x low, x high), (y low, y high) in metres, robot-base frame."""

_DENSITY_MASS = {"object": 0.06, "container": 0.45}
_FRICTION = {True: '1.1 0.01 0.0005" condim="4', False: '1.1 0.02 0.003" condim="6'}


@dataclass(frozen=True)
class Look:
    """What a scene looks like apart from its items.

    Attributes:
        table: Name of a table top.
        floor: Colour of what lies beyond the table, RGB in 0..1.
        light: Diffuse brightness of the main light, 0..1.
        light_from: Position of the main light, metres.
        tint: Colour of the light, RGB factors.
        shadows: Whether the main light casts shadows (rendering then costs two to three times as much).
        camera_shift: Displacement of the front camera, metres.
    """

    table: str = "grey"
    floor: tuple[float, float, float] = (0.16, 0.17, 0.19)
    light: float = 0.65
    light_from: tuple[float, float, float] = (0.6, -0.3, 1.6)
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    shadows: bool = False
    camera_shift: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Scene:
    """Items and look of one episode."""

    items: tuple[Item, ...]
    look: Look = field(default_factory=Look)

    def item(self, name: str) -> Item:
        """The item of that name.

        Raises:
            KeyError: If there is none.
        """
        for item in self.items:
            if item.name == name:
                return item
        raise KeyError(name)


def _numbers(values: tuple[float, ...] | list[float]) -> str:
    return " ".join(f"{value:.6g}" for value in values)


def _materials(items: tuple[Item, ...], look: Look, assets: dict[str, bytes]) -> str:
    assets["table.png"] = table_texture(look.table)
    lines = [
        '<texture name="table" type="2d" file="table.png"/>',
        '<material name="table" texture="table" texrepeat="2 2" specular="0.05" shininess="0.1"/>',
        '<material name="dark" rgba="0.16 0.17 0.19 1"/>',
        '<material name="shell" rgba="0.86 0.87 0.89 1"/>',
        '<material name="accent" rgba="0.45 0.50 0.58 1"/>',
    ]
    for item in items:
        if item.material == "plastic":
            continue
        assets[f"{item.name}.png"] = material_texture(item.material, COLORS[item.color])
        shine = 'specular="0.5" shininess="0.7"' if item.material == "metal" else 'specular="0.05" shininess="0.1"'
        lines.append(f'<texture name="{item.name}" type="cube" file="{item.name}.png"/>')
        lines.append(f'<material name="{item.name}" texture="{item.name}" {shine}/>')
    return "".join(lines)


def _geoms(item: Item) -> str:
    scale = item.scale
    look = f'material="{item.name}"' if item.material != "plastic" else f'rgba="{_numbers(COLORS[item.color])} 1"'
    solid = 'contype="0" conaffinity="0"' if item.kind == "zone" else f'friction="{_FRICTION[item.geometry.flat]}"'
    mass = "" if item.kind == "zone" else f'mass="{_DENSITY_MASS[item.kind] / len(item.geometry.parts):.4f}"'
    return "".join(
        f'<geom class="item" type="{part.geom}" size="{_numbers([scale * s for s in part.size])}" '
        f'pos="{_numbers([scale * p for p in part.position])}" euler="0 0 {part.yaw:.6g}" {look} {solid} {mass}/>'
        for part in item.geometry.parts
    )


def _body(item: Item) -> str:
    height = item.half_height if item.kind == "object" else 0.0
    joint = "" if item.kind == "zone" else f'<joint name="{item.name}" type="free" damping="0.0002"/>'
    pose = f'pos="{_numbers((*item.xy, height))}" euler="0 0 {item.yaw:.6g}"'
    return f'<body name="{item.name}" {pose}>{joint}{_geoms(item)}</body>'


def _front_camera(look: Look) -> str:
    dx, dy, dz = look.camera_shift
    position = _numbers((1.13 + dx, dy, 0.78 + dz))
    return f'<camera name="front" pos="{position}" xyaxes="0 1 0 -0.74 0 0.67" fovy="33.5"/>'


def _lights(look: Look) -> str:
    diffuse = _numbers([look.light * t for t in look.tint])
    fill = _numbers([0.25 * look.light * t for t in look.tint])
    main = (
        f'pos="{_numbers(look.light_from)}" dir="{_numbers([0.45 - look.light_from[0], -look.light_from[1], -1.6])}"'
    )
    return (
        f'<light {main} type="directional" diffuse="{diffuse}" specular="0.3 0.3 0.3" '
        f'castshadow="{str(look.shadows).lower()}"/>'
        f'<light pos="0.8 0.8 1.2" dir="-0.4 -0.8 -1" type="directional" diffuse="{fill}" castshadow="false"/>'
    )


def to_mjcf(scene: Scene) -> tuple[str, dict[str, bytes]]:
    """The scene as MJCF text and the texture files (name to PNG bytes) that the text names."""
    assets: dict[str, bytes] = {}
    look = scene.look
    text = f"""
<mujoco model="tabletop">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{TIMESTEP}" cone="elliptic" integrator="implicitfast" impratio="10"/>
  <visual>
    <global offwidth="{FINE * MAX_IMAGE_SIZE}" offheight="{FINE * MAX_IMAGE_SIZE}"/>
    <quality shadowsize="{512 if look.shadows else 0}" offsamples="0"/>
    <headlight ambient="0.32 0.32 0.32" diffuse="0.22 0.22 0.22" specular="0 0 0"/>
    <map znear="0.02" zfar="12"/>
  </visual>
  <default>
    <default class="shell"><geom contype="0" conaffinity="0" material="shell"/></default>
    <default class="pad">
      <geom friction="1.8 0.02 0.0005" condim="4" solref="0.005 1" rgba="0.12 0.12 0.13 1" priority="1"/>
    </default>
    <default class="item"><geom solref="0.006 1"/></default>
  </default>
  <asset>{_materials(scene.items, look, assets)}</asset>
  <worldbody>
    {_lights(look)}
    {_front_camera(look)}
    <geom name="{FLOOR_GEOM}" type="plane" size="6 6 0.1" pos="0 0 -0.7" rgba="{_numbers(look.floor)} 1"/>
    <geom name="{TABLE_GEOM}" type="box" size="0.52 0.62 0.02" pos="0.32 0 -0.02" material="table"
          friction="1.0 0.01 0.0005" condim="4"/>
    {robot_body()}
    {"".join(_body(item) for item in scene.items)}
  </worldbody>
  {actuators()}
</mujoco>"""
    return text, assets


def compile_scene(scene: Scene) -> MjModel:
    """Compiles the scene.

    Raises:
        ValueError: If MuJoCo rejects the MJCF.
    """
    text, assets = to_mjcf(scene)
    return mujoco.MjModel.from_xml_string(text, assets)
