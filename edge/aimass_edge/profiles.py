"""Where board profiles are found: the files of firmware_configs, by name.

Looked for in /etc/aimass-edge/profiles (the integrator's own), in the installed package, and in
the checkout that an editable install stands in.
"""

from pathlib import Path

from aimass_shared.errors import UnknownSettingError

PLACES = (
    Path("/etc/aimass-edge/profiles"),
    Path(__file__).parent / "firmware_configs",
    Path(__file__).parent.parent.parent / "firmware_configs",
)


def profile_path(name: str) -> Path:
    """The file of a profile: a path as it is, or a name such as `raspberry-pi-5`.

    Raises:
        UnknownSettingError: there is none; the detail lists those that are.
    """
    if name.endswith(".toml"):
        return Path(name)
    for place in PLACES:
        path = place / f"{name}.toml"
        if path.is_file():
            return path
    known = ", ".join(profile_names()) or "none"
    raise UnknownSettingError(f"no board profile {name!r}; known are: {known}")


def profile_names() -> list[str]:
    """Names of all profiles that can be found."""
    return sorted({path.stem for place in PLACES for path in place.glob("*.toml")})
