"""Makes the programs of a Kubernetes control plane from the archive of a Debian 12 system.

etcd and kubectl are packages, the other three are compiled from the archive's source package by the archive's
compiler. Nothing is installed and no file of the system is changed, so no step needs root: apt works on lists
of its own, by a copy of the system's sources, and all is unpacked into a folder that the caller removes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# Goes up when the programs would come out differently: those of an older recipe are made again.
RECIPE = 3
BUILDABLE = "1.20."
TARGETS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
_ASK = "KUBEBUILDER_ASSETS may name a folder with etcd, kubectl, " + ", ".join(TARGETS)
# Kubernetes 1.20 carries a copy of this library that reaches into Go's maps as they were before Go 1.18: made
# by a later Go, the API server dies of the first object of a kind that is not its own. The archive has a
# copy that is right for both.
REPLACED = ("golang-github-modern-go-reflect2-dev", "github.com/modern-go/reflect2")
# Its check of custom objects tells an empty text from none by where Go keeps it, which Go 1.19 changed: every
# empty text in one would be refused as null.
REPAIRED = "vendor/k8s.io/kube-openapi/pkg/validation/validate/type.go"
_MISTAKEN = "data == nil || reflect.DeepEqual(reflect.Zero(reflect.TypeOf(data)), reflect.ValueOf(data))"
_HEARTBEAT_S = 30.0
_NETWORK_S = 600.0
_COMPILER_S = 3600.0
Say = Callable[[str], None]


class Unavailable(Exception):
    """Kubernetes cannot be had here; the words say why and what would help."""


def make(scratch: Path, say: Say) -> tuple[Path, str]:
    """Makes the programs below ``scratch``; the folder they are in, and their version (`1.20.2`)."""
    say(
        "Kubernetes for the tests is made once: about 130 MB to fetch, then minutes of compiling on two cores"
    )
    archive = Archive(scratch / "apt", say)
    version = archive.source_version("kubernetes")
    if not version.startswith(BUILDABLE):
        raise Unavailable(f"this system's archive has Kubernetes {version}, {BUILDABLE}x can be made; {_ASK}")
    compiler = archive.compiler()
    tools = ("etcd-server", "kubernetes-client", compiler, compiler.removesuffix("-go") + "-src")
    archive.fetch("kubernetes", *tools, REPLACED[0])
    root, source = archive.unpack(scratch / "root", scratch / "gopath/src/k8s.io/kubernetes")
    replace_library(root, source)
    repair(source)
    made = scratch / "made"
    made.mkdir()
    for name in ("etcd", "kubectl"):
        (root / "usr/bin" / name).rename(made / name)
    goroot = root / "usr/lib" / compiler.removesuffix("-go").replace("golang", "go")
    Compiler(goroot, scratch, source, version, say).build(made)
    return made, version


class Archive:
    """The packages and sources of this system, by a copy of its sources with source packages switched on."""

    def __init__(self, folder: Path, say: Say) -> None:
        self.folder = folder
        self.say = say
        for name in ("parts", "lists/partial", "cache/archives/partial", "files"):
            (folder / name).mkdir(parents=True)
        _run(
            ["apt-get", "--version"],
            {},
            self.folder,
            30,
            "no apt-get here: this takes a Debian 12 system, " + _ASK,
        )
        self._configure()
        self._update()

    def _configure(self) -> None:
        places = dict(
            line.split("=", 1)
            for line in _run(
                ["apt-config", "shell", "list", "Dir::Etc::sourcelist/f", "parts", "Dir::Etc::sourceparts/d"],
                {},
                self.folder,
                30,
            ).splitlines()
        )
        listed = Path(places["list"].strip("'"))
        parts = Path(places["parts"].strip("'"))
        for file in [listed, *sorted(parts.glob("*.list")), *sorted(parts.glob("*.sources"))]:
            if file.is_file():
                text = file.read_text(errors="replace")
                with_sources = stanzas_with_sources if file.suffix == ".sources" else lines_with_sources
                (self.folder / "parts" / file.name).write_text(with_sources(text))
        (self.folder / "apt.conf").write_text(
            f'Dir::Etc::sourcelist "{self.folder}/none";\n'
            f'Dir::Etc::sourceparts "{self.folder}/parts";\n'
            f'Dir::State::lists "{self.folder}/lists";\n'
            f'Dir::Cache "{self.folder}/cache";\n'
            'APT::Sandbox::User "";\n'  # its folders are ours, not of the user that apt would become
            'Acquire::Languages "none";\n'
            'Acquire::Retries "2";\n'
            # What the system does after its own updates is not ours to start.
            "#clear APT::Update::Pre-Invoke;\n"
            "#clear APT::Update::Post-Invoke;\n"
            "#clear APT::Update::Post-Invoke-Success;\n"
        )

    def _apt(self, *words: str, why: str = "") -> str:
        program, *arguments = words
        return _run(
            [program, "-c", str(self.folder / "apt.conf"), *arguments],
            {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
            self.folder / "files",
            _NETWORK_S,
            why,
        )

    def _update(self) -> None:
        with timed(self.say, "reading this system's package lists, sources included"):
            self._apt("apt-get", "update", "-q", why="apt-get update failed (offline?)")

    def source_version(self, package: str) -> str:
        """The upstream version of a source package: `1.20.2` for Debian's `1.20.5+really1.20.2-1.1`."""
        why = f"this system's archive has no source package {package} (offline?)"
        said = self._apt("apt-cache", "showsrc", "--only-source", package, why=why)
        versions = re.findall(r"^Version: (?:\S*\+really)?(\d+(?:\.\d+)+)", said, re.MULTILINE)
        if not versions:
            raise Unavailable(f"{why}; {_ASK}")
        return max(versions, key=lambda version: [int(part) for part in version.split(".")])

    def compiler(self) -> str:
        """The package of the system's Go compiler: `golang-1.19-go`."""
        found = re.search(r"golang-[\d.]+-go", self._apt("apt-cache", "depends", "golang-go"))
        if found is None:
            raise Unavailable(f"this system's archive has no Go compiler; {_ASK}")
        return found[0]

    def fetch(self, source: str, *packages: str) -> None:
        """Downloads a source package and packages; apt checks their sums."""
        with timed(self.say, f"fetching {', '.join(packages)} and the source of {source}"):
            self._apt("apt-get", "download", "-q", *packages)
            self._apt("apt-get", "source", "-q", "--download-only", "--only-source", source)

    def unpack(self, root: Path, source: Path) -> tuple[Path, Path]:
        """Unpacks what was fetched: packages to ``root``, the source to ``source``."""
        files = self.folder / "files"
        with timed(self.say, "unpacking"):
            for package in sorted(files.glob("*.deb")):
                _run(["dpkg-deb", "-x", str(package), str(root)], {}, files, 300)
                package.unlink()
            source.mkdir(parents=True)
            (tarball,) = files.glob("*.orig.tar.*")
            _run(["tar", "-xf", str(tarball), "-C", str(source), "--strip-components=1"], {}, files, 300)
        return root, source


def replace_library(root: Path, source: Path) -> None:
    """Puts the archive's copy of ``REPLACED`` in place of the one that the source carries."""
    theirs, ours = source / "vendor" / REPLACED[1], root / "usr/share/gocode/src" / REPLACED[1]
    for path in [*theirs.glob("*.go"), *theirs.glob("*.s")]:
        path.unlink()
    for path in [*ours.glob("*.go"), *ours.glob("*.s")]:
        if not path.name.endswith("_test.go"):
            shutil.copy(path, theirs)


def repair(source: Path) -> None:
    """Takes ``_MISTAKEN`` out of the source."""
    file = source / REPAIRED
    text = file.read_text()
    if _MISTAKEN not in text:
        raise Unavailable(f"{REPAIRED} is not as it was in Kubernetes {BUILDABLE}x")
    file.write_text(text.replace(_MISTAKEN, "data == nil"))


def lines_with_sources(text: str) -> str:
    """A sources.list in which every `deb` line has its `deb-src` line."""
    lines = [line for line in text.splitlines() if not re.match(r"\s*deb-src\s", line)]
    return "".join(
        f"{line}\n" + (re.sub(r"^\s*deb\s", "deb-src ", line) + "\n" if re.match(r"\s*deb\s", line) else "")
        for line in lines
    )


def stanzas_with_sources(text: str) -> str:
    """A .sources file in which every stanza that has packages has their sources too."""
    return re.sub(r"(?im)^Types:.*\bdeb(?!-src)\b.*$", "Types: deb deb-src", text)


class Compiler:
    """Go as the package has it, on an unpacked source of Kubernetes (whose module file is of no use)."""

    def __init__(self, goroot: Path, scratch: Path, source: Path, version: str, say: Say) -> None:
        self.go = str(goroot / "bin/go")
        self.source = source
        self.version = version
        self.say = say
        (scratch / "tmp").mkdir()
        self.environment = {
            "HOME": str(scratch),
            "TMPDIR": str(scratch / "tmp"),
            "GOROOT": str(goroot),
            "GOPATH": str(scratch / "gopath"),
            "GOCACHE": str(scratch / "gocache"),
            "GOENV": "off",
            "GO111MODULE": "off",
            "CGO_ENABLED": "0",
        }
        available = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        if available and int(available[1]) > 6 << 20:
            # The compiler collects garbage less often: faster, for memory that is there.
            self.environment["GOGC"] = "400"

    def build(self, made: Path) -> None:
        """Compiles the three programs into ``made``."""
        started = time.monotonic()
        generator = made.parent / "openapi-gen"
        with timed(self.say, "compiling the generator of API descriptions (1 of 3)"):
            self._go("build", "-o", str(generator), "./vendor/k8s.io/kube-openapi/cmd/openapi-gen")
        apiserver, *others = (f"./cmd/{name}" for name in TARGETS)
        # The descriptions are written by one core and only the API server needs them.
        with timed(self.say, "compiling kube-controller-manager and kube-scheduler (2 of 3)"):
            with subprocess.Popen(
                [str(generator), *self._descriptions()],
                cwd=self.source,
                env={"PATH": os.environ["PATH"], **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            ) as writing:
                try:
                    self._compile(made, others)
                    words = writing.communicate(timeout=_COMPILER_S)[1]
                except BaseException:
                    writing.kill()
                    raise
            if writing.returncode != 0:
                raise Unavailable(f"openapi-gen failed: {_last_lines(words)}")
        with timed(self.say, "compiling kube-apiserver (3 of 3)"):
            self._compile(made, [apiserver])
        self.say(f"compiled in {time.monotonic() - started:.0f} s")

    def _descriptions(self) -> list[str]:
        """What Kubernetes' own makefile tells the generator, for the one file that the source lacks."""
        folders = set()
        for top, name in (("pkg", "pkg"), ("staging/src/k8s.io", "vendor/k8s.io")):
            for path in (self.source / top).rglob("*.go"):
                text = path.read_bytes()
                if b"+k8s:openapi-gen=" in text and re.search(rb"^// *\+k8s:", text, re.MULTILINE):
                    folders.add(f"{name}/{path.parent.relative_to(self.source / top)}")
        left_out = ("vendor/k8s.io/code-generator/", "vendor/k8s.io/sample-apiserver/")
        wanted = sorted(folder for folder in folders if not folder.startswith(left_out))
        package = "k8s.io/kubernetes/"
        return [
            "--logtostderr",
            "-i", ",".join(package + folder for folder in wanted),
            "-p", package + "pkg/generated/openapi",
            "-O", "zz_generated.openapi",
            "-h", "vendor/k8s.io/code-generator/hack/boilerplate.go.txt",
            "-r", "/dev/null",
        ]  # fmt: skip

    def _compile(self, made: Path, targets: Sequence[str]) -> None:
        major, minor = self.version.split(".")[:2]
        facts = {
            "gitVersion": f"v{self.version}",
            "gitMajor": major,
            "gitMinor": minor,
            "gitTreeState": "archive",
        }
        stamps = [
            f"-X k8s.io/kubernetes/vendor/k8s.io/{package}.{name}={value}"
            for package in ("client-go/pkg/version", "component-base/version")
            for name, value in facts.items()
        ]
        self._go(
            "build",
            "-v",  # a line per package: how far it is
            "-tags=providerless",  # without the clouds' libraries, which are a quarter of everything
            "-gcflags=all=-dwarf=false",
            f"-ldflags=-s -w {' '.join(stamps)}",
            "-o",
            f"{made}/",
            *targets,
        )

    def _go(self, *arguments: str) -> None:
        """Runs go, saying every half minute how many packages it has compiled."""
        started = time.monotonic()
        lines: list[str] = []
        with subprocess.Popen(
            [self.go, *arguments],
            cwd=self.source,
            env={"PATH": os.environ["PATH"], **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as running:
            assert running.stderr is not None
            reader = threading.Thread(target=lines.extend, args=[running.stderr], daemon=True)
            reader.start()
            try:
                while True:
                    try:
                        running.wait(_HEARTBEAT_S)
                        break
                    except subprocess.TimeoutExpired:
                        passed = time.monotonic() - started
                        if passed > _COMPILER_S:
                            raise Unavailable(
                                f"go has not ended within {_COMPILER_S / 60:.0f} minutes"
                            ) from None
                        self.say(f"  {len(lines)} packages after {passed:.0f} s")
            except BaseException:
                running.kill()
                raise
            reader.join(10)
        if running.returncode != 0:
            raise Unavailable(f"go {arguments[0]} failed: {_last_lines(''.join(lines))}")


class timed:
    """Says what begins, and afterwards how long it took."""

    def __init__(self, say: Say, what: str) -> None:
        self.say = say
        self.what = what

    def __enter__(self) -> None:
        self.started = time.monotonic()
        self.say(self.what)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.say(f"  done in {time.monotonic() - self.started:.0f} s")


def _run(command: list[str], variables: dict[str, str], folder: Path, bound_s: float, why: str = "") -> str:
    """What a program prints; Unavailable with ``why`` and its last words if it fails."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=bound_s,
            check=False,
        )
    except FileNotFoundError as missing:
        raise Unavailable(why or f"no {command[0]} here: this takes a Debian 12 system, {_ASK}") from missing
    except subprocess.TimeoutExpired as late:
        raise Unavailable(f"{' '.join(command[:4])} has not ended within {bound_s:.0f} s") from late
    if done.returncode != 0:
        said = _last_lines(done.stderr or done.stdout)
        raise Unavailable(f"{why or ' '.join([command[0], *command[3:]]) + ' failed'}: {said}; {_ASK}")
    return done.stdout


def _last_lines(words: str) -> str:
    return " | ".join(words.strip().splitlines()[-5:])
