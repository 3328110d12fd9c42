"""The robot: a 7-joint arm of capsules with a parallel gripper, as MJCF text.

The base frame is the world frame: origin in the table's surface under the base, x away from the robot, z up. At
:data:`HOME` the gripper points straight down. The hand frame has z towards the fingertips and closes along y.
"""

from __future__ import annotations

ARM_JOINTS: tuple[str, ...] = tuple(f"joint{i}" for i in range(1, 8))
FINGER_JOINTS: tuple[str, str] = ("finger_left", "finger_right")
HOME: tuple[float, ...] = (0.0, 0.414, 0.0, 1.948, 0.0, 0.780, 0.0)
"""Joint angles (rad) of the rest pose: tool point near (0.45, 0, 0.22) m, gripper down."""
FINGER_OPEN = 0.045
"""Travel of one finger in metres; the gap between the fingers is twice that."""
FINGERTIP_REACH = 0.011
"""How far the fingertips reach below the tool point, metres."""

_JOINT = '<joint name="joint{i}" axis="{axis}" range="{low} {high}" armature="0.08" damping="{damping}"/>'


def _joint(index: int, axis: str, low: float, high: float, damping: float) -> str:
    return _JOINT.format(i=index, axis=axis, low=low, high=high, damping=damping)


def _finger(name: str, side: int) -> str:
    return f"""
<body name="{name}" pos="0 0 0.085" gravcomp="1">
  <joint name="finger_{name}" type="slide" axis="0 {side} 0" range="0 {FINGER_OPEN}" armature="0.02" damping="6"/>
  <geom class="shell" type="box" size="0.011 0.006 0.022" pos="0 {side * 0.0065} 0.022" material="dark" mass="0.02"/>
  <geom name="pad_{name}" class="pad" type="box" size="0.012 0.005 0.019" pos="0 {side * 0.0050} 0.057" mass="0.02"/>
</body>"""


def robot_body() -> str:
    """MJCF of the arm's body tree, with the camera ``wrist`` and the site ``tool``."""
    return f"""
<body name="base" gravcomp="1">
  <geom class="shell" type="cylinder" size="0.075 0.05" pos="0 0 0.05" material="dark"/>
  <body name="link1" pos="0 0 0.10" gravcomp="1">{_joint(1, "0 0 1", -2.9, 2.9, 8)}
    <geom class="shell" type="capsule" size="0.055" fromto="0 0 0.02 0 0 0.24" mass="2"/>
    <body name="link2" pos="0 0 0.24" gravcomp="1">{_joint(2, "0 1 0", -1.8, 1.9, 8)}
      <geom class="shell" type="capsule" size="0.046" fromto="0 0 0.04 0 0 0.21" mass="1.6" material="accent"/>
      <body name="link3" pos="0 0 0.21" gravcomp="1">{_joint(3, "0 0 1", -2.9, 2.9, 6)}
        <geom class="shell" type="capsule" size="0.042" fromto="0 0 0.02 0 0 0.20" mass="1.4"/>
        <body name="link4" pos="0 0 0.21" gravcomp="1">{_joint(4, "0 1 0", 0.05, 2.8, 6)}
          <geom class="shell" type="capsule" size="0.038" fromto="0 0 0.02 0 0 0.19" mass="1" material="accent"/>
          <body name="link5" pos="0 0 0.20" gravcomp="1">{_joint(5, "0 0 1", -2.9, 2.9, 4)}
            <geom class="shell" type="capsule" size="0.034" fromto="0 0 0.02 0 0 0.17" mass="0.8"/>
            <body name="link6" pos="0 0 0.20" gravcomp="1">{_joint(6, "0 1 0", -1.8, 2.6, 3)}
              <geom class="shell" type="sphere" size="0.036" mass="0.4" material="accent"/>
              <body name="hand" pos="0 0 0.07" gravcomp="1">{_joint(7, "0 0 1", -2.9, 2.9, 2)}
                <geom class="shell" type="cylinder" size="0.026 0.030" pos="0 0 0" mass="0.3"/>
                <geom class="shell" type="box" size="0.020 0.062 0.016" pos="0 0 0.060" mass="0.3" material="dark"/>
                <site name="tool" pos="0 0 0.150" size="0.004" rgba="1 0 0 0"/>
                <camera name="wrist" pos="-0.080 0 0.050" xyaxes="0 1 0 0.78 0 -0.62" fovy="74"/>
                {_finger("left", 1)}
                {_finger("right", -1)}
              </body>
            </body>
          </body>
        </body>
      </body>
    </body>
  </body>
</body>"""


def actuators() -> str:
    """MJCF of the position actuators: seven joints, then two fingers."""
    gains = (1600, 1600, 1200, 1200, 800, 800, 500)
    arm = "".join(
        f'<position joint="{joint}" kp="{gain}" kv="{gain * 0.06:.0f}" forcerange="-300 300"/>'
        for joint, gain in zip(ARM_JOINTS, gains, strict=True)
    )
    fingers = "".join(
        f'<position joint="{joint}" kp="900" kv="20" forcerange="-16 16" ctrlrange="-0.01 {FINGER_OPEN}"/>'
        for joint in FINGER_JOINTS
    )
    return f"<actuator>{arm}{fingers}</actuator>"
