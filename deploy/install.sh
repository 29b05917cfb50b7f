#!/usr/bin/env bash
# Installs the node as a service on Raspberry Pi OS or Debian (12 or newer), or takes it away.
# Run again, it updates; what is right already stays as it is.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: sudo deploy/install.sh [options]

  --wheels DIR    use no network: DIR has the wheels of all that is needed
  --i2c, --spi, --one-wire
                  switch this bus on in config.txt, without asking
  --yes           switch all three on, without asking
  --no-start      do not start the service
  --unsigned      install this checkout where /etc/sensor-node/update-keys has a key
  --uninstall     take everything away but /etc/sensor-node and /var/lib/sensor-node
  --help

On a Pi it asks, for each bus that is off, whether to switch it on. Where nobody can be asked
(no terminal), a bus that is not named stays off.

example: sudo deploy/install.sh --i2c
TEXT
}

readonly root=/opt/sensor-node
readonly config_folder=/etc/sensor-node
readonly state=/var/lib/sensor-node
readonly user=sensor-node
readonly -a bus_groups=(bluetooth dialout gpio i2c spi)
readonly sysusers=/usr/lib/sysusers.d/sensor-node.conf
readonly rules=/etc/udev/rules.d/90-sensor-node.rules
readonly units=/etc/systemd/system
readonly devices=$units/sensor-node.service.d
# In the order in which they are taken away.
readonly -a unit_files=(
    sensor-node-config.path sensor-node-config.service
    sensor-node-web.service sensor-node-staged.path sensor-node-staged.service
    sensor-node-update.service sensor-node.service
    sensor-node-alarm.socket sensor-node-alarm@.service
)
readonly command_link=/usr/local/bin/sensor-node
# For man, and for shells that complete commands, where they are installed.
readonly bash_completions=/usr/share/bash-completion/completions
readonly zsh_completions=/usr/share/zsh/vendor-completions
readonly manuals=/usr/share/man/man1
readonly mark_begin="# switched on by sensor-node's install.sh:"
readonly mark_end="# (end of what sensor-node's install.sh has switched on)"

# Another program that installs at the same time, as Debian's own updates do, is waited for.
readonly -a apt_options=(-qq -o DPkg::Lock::Timeout=300)

wheels=
start=yes
unsigned=
uninstall=
declare -A switch_on=([i2c]='' [spi]='' [one-wire]='')

main() {
    parse "$@"
    [[ $(id -u) -eq 0 ]] || fail "it must be root: sudo $0${*:+ $*}"
    [[ -d /run/systemd/system ]] || fail "this system was not booted by systemd"
    ! is_installed sensor-node ||
        fail "the Debian package sensor-node is installed: update and remove it with apt"
    if [[ $uninstall ]]; then
        take_away
        return
    fi
    here=$(cd "$(dirname "$0")/.." && pwd)
    check_python
    install_packages
    add_user
    place_files
    offer_buses
    place_release
    start_service
}

parse() {
    while (($#)); do
        case $1 in
        --wheels)
            [[ ${2-} && -d $2 ]] || fail "--wheels wants a folder: ${2-none was named}"
            wheels=$(cd "$2" && pwd)
            shift
            ;;
        --i2c | --spi | --one-wire) switch_on[${1#--}]=yes ;;
        --yes) switch_on=([i2c]=yes [spi]=yes [one-wire]=yes) ;;
        --no-start) start= ;;
        --unsigned) unsigned=yes ;;
        --uninstall) uninstall=yes ;;
        --help | -h)
            usage
            exit 0
            ;;
        *)
            usage >&2
            exit 2
            ;;
        esac
        shift
    done
}

say() { echo "$*"; }

# A command for the user to type, on a line of its own. It is a user's who needs sudo for it, but
# where there is none.
say_command() {
    if command -v sudo >/dev/null; then say "  $*"; else say "  ${*//sudo /}"; fi
}

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

check_python() {
    python3 -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        fail "it needs Python 3.11 or newer (Debian 12, Raspberry Pi OS bookworm)"
    [[ ! -e $root/pyvenv.cfg ]] ||
        fail "$root is an environment that was made by hand: sudo systemctl stop sensor-node, and move it away"
}

is_pi() { grep -qs "Raspberry Pi" /proc/device-tree/model; }

install_packages() {
    local -a missing=() helpful=()
    local package
    python3 -I -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
    # gpiozero's way to the pins on Raspberry Pi OS; PyPI has no wheel of it for every Pi. Debian
    # does not have it, and there the node goes through gpiod.
    if is_pi && ! python3 -I -c 'import lgpio' 2>/dev/null; then helpful+=(python3-lgpio); fi
    if [[ $(dpkg --print-architecture) == arm* && $(dpkg --print-architecture) != arm64 ]]; then
        # PyPI has no wheels for a 32-bit Pi, and the index that Raspberry Pi OS asks as well may
        # lack the newest: pip then compiles.
        helpful+=(gcc python3-dev libgpiod-dev)
    fi
    # bluetoothd, for who reads Bluetooth thermometers.
    if grep -qsE '^[[:space:]]*driver[[:space:]]*=[[:space:]]*"ble"' "$config_folder/node.toml"; then helpful+=(bluez); fi
    # What tells the network of the status page, where avahi gives the Pi its name there.
    if [[ ! $wheels && -x /usr/sbin/avahi-daemon && ! -x /usr/bin/avahi-publish-service ]]; then
        helpful+=(avahi-utils)
    fi
    if [[ $wheels ]]; then
        ((${#missing[@]} == 0)) ||
            fail "without the network, these packages must be there: ${missing[*]}"
        return
    fi
    for package in "${helpful[@]}"; do
        is_installed "$package" || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    apt-get "${apt_options[@]}" update
    for package in "${missing[@]}"; do
        # One that this system does not have at all is done without.
        [[ " ${helpful[*]} " != *" $package "* ]] || is_offered "$package" || continue
        say "installing Debian's $package ..."
        DEBIAN_FRONTEND=noninteractive apt-get "${apt_options[@]}" install \
            --no-install-recommends "$package" >/dev/null
    done
}

is_installed() { [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

# Whether apt has a version of it to install.
is_offered() {
    local candidate
    candidate=$(LC_ALL=C apt-cache policy "$1" | awk '$1 == "Candidate:" { print $2 }')
    [[ $candidate && $candidate != "(none)" ]]
}

# -- user and files

add_user() {
    local group
    mkdir -p "$root"
    # Which groups are ours to take away again.
    for group in "${bus_groups[@]}"; do
        getent group "$group" >/dev/null || echo "$group" >>"$root/made-groups"
    done
    install -m 644 "$here/deploy/sensor-node.sysusers" "$sysusers"
    systemd-sysusers sensor-node.conf
}

place_files() {
    local unit part
    install -m 644 "$here/node/system/safe_files.py" "$root/safe_files.py"
    install -d -m 755 "$root/update_parts"
    for part in "$here"/deploy/update_parts/*.py; do
        [[ -L $part ]] || install -m 644 -t "$root/update_parts" "$part"
    done
    # Links there, which an archive may have lost.
    install -m 644 -t "$root/update_parts" "$here"/node/system/{clock,ed25519}.py
    install -m 755 "$here/deploy/update" "$root/update"
    # The documents, in the folders that their links name.
    rm -rf "$root/doc"
    (cd "$here" && find README.md deploy drivers node -type f \
        \( -name '*.md' -o -path 'deploy/wiring/*.svg' \) \
        -exec install -D -m 644 {} "$root/doc/{}" \;)
    install -m 644 "$here/node/alarms/hook.py" "$root/alarm_hook.py"
    for unit in "${unit_files[@]}"; do
        install -m 644 "$here/deploy/$unit" "$units/$unit"
    done
    install -m 644 "$here/deploy/sensor-node.rules" "$rules"
    if command -v udevadm >/dev/null; then
        udevadm control --reload 2>/dev/null &&
            udevadm trigger --action=add --subsystem-match=w1 2>/dev/null || true
    fi
    ln -sfn "$root/bin/sensor-node" "$command_link"
    if [[ -d $bash_completions ]]; then
        install -m 644 "$here/deploy/completion/sensor-node" "$bash_completions/"
    fi
    if [[ -d $zsh_completions ]]; then
        install -m 644 "$here/deploy/completion/_sensor-node" "$zsh_completions/"
    fi
    if [[ -d $manuals ]]; then install -m 644 "$here/deploy/man/sensor-node.1" "$manuals/"; fi
    # update writes there which devices the packages of packages.txt need.
    mkdir -p "$devices"
    systemctl daemon-reload

    mkdir -p "$config_folder"
    if [[ -e $config_folder/node.toml ]]; then
        say "$config_folder/node.toml stays as it is"
    else
        install -m 640 -g "$user" "$here/deploy/node.toml" "$config_folder/node.toml"
        say "an example of a configuration is in $config_folder/node.toml"
    fi
    let_user_read "$config_folder"
}

# Files from before an --uninstall, or from cloud-init, belong to root alone.
let_user_read() {
    local file
    while IFS= read -r file; do
        setpriv --reuid="$user" --regid="$user" --init-groups test -r "$file" && continue
        chgrp "$user" "$file"
        if [[ -d $file ]]; then chmod g+rx "$file"; else chmod g+r "$file"; fi
    done < <(find "$1" ! -type l)
}

# -- the buses

boot_config() {
    local file
    for file in /boot/firmware/config.txt /boot/config.txt; do
        if [[ -f $file ]]; then
            echo "$file"
            return
        fi
    done
}

declare -rA bus_line=(
    [i2c]="dtparam=i2c_arm=on"
    [spi]="dtparam=spi=on"
    [one-wire]="dtoverlay=w1-gpio"
)
declare -rA bus_pattern=(
    [i2c]='^dtparam=([^#]*,)?i2c(_arm|1)?(=on)?(,|[[:space:]]|$)'
    [spi]='^dtparam=([^#]*,)?spi(=on)?(,|[[:space:]]|$)'
    [one-wire]='^dtoverlay=w1-gpio'
)
declare -rA bus_note=(
    [i2c]="I2C (GPIO 2 and 3; bme280 and most chips)"
    [spi]="SPI (GPIO 7 to 11; max31855, mcp3008)"
    [one-wire]="1-Wire (takes GPIO 4; ds18b20)"
)

offer_buses() {
    local config bus answer
    local -a wanted=()
    config=$(boot_config)
    if [[ ! $config ]]; then
        is_pi && say "there is no config.txt: the buses stay as they are"
        return 0
    fi
    for bus in i2c spi one-wire; do
        for_every_pi "$config" | grep -qE "${bus_pattern[$bus]}" && continue
        if [[ ${switch_on[$bus]} ]]; then
            wanted+=("$bus")
        elif [[ -t 0 ]]; then
            read -r -p "Switch on ${bus_note[$bus]}, in $config? [y/N] " answer || answer=
            [[ $answer != [yY]* ]] || wanted+=("$bus")
        else
            say "off, and left so: ${bus_note[$bus]}; --$bus switches it on"
        fi
    done
    ((${#wanted[@]} == 0)) || write_buses "$config" "${wanted[@]}"
}

# The lines of config.txt that hold for every model: those of [pi4] and its like are left out.
for_every_pi() { awk '/^\[/ { section = $1 } section == "" || section == "[all]"' "$1"; }

write_buses() {
    local config=$1 bus
    shift
    [[ -e $config.before-sensor-node ]] || cp -p "$config" "$config.before-sensor-node"
    {
        sed '$a\' "$config" # its last line may not end
        echo "[all]"
        echo "$mark_begin"
        for bus in "$@"; do echo "${bus_line[$bus]}"; done
        echo "$mark_end"
    } >"$config.new"
    replace "$config"
    for bus in "$@"; do say "switched on from the next boot: ${bus_note[$bus]}"; done
    say "($config as it was: $config.before-sensor-node)"
    touch /run/reboot-required
}

# FILE by FILE.new, in one step and on the disk: a torn config.txt keeps a Pi from booting.
replace() {
    sync "$1.new"
    mv "$1.new" "$1"
    sync "$(dirname "$1")"
}

# -- the node itself

place_release() {
    local -a options=()
    local source=$here
    if [[ $wheels ]]; then
        options=(--wheels "$wheels")
        # The wheel of the folder, where there is one: to build it needs setuptools.
        if compgen -G "$wheels/pi_sensor_node-*.whl" >/dev/null; then source=; fi
    fi
    if [[ $unsigned ]]; then options+=(--unsigned); fi
    "$root/update" "${options[@]}" ${source:+"$source"}
}

start_service() {
    # That of the status page looks by itself whether [web] is enabled.
    systemctl enable --quiet sensor-node.service sensor-node-update.service sensor-node-web.service
    systemctl enable --quiet --now sensor-node-staged.path sensor-node-config.path
    systemctl restart --no-block sensor-node-web.service
    if systemctl is-active --quiet sensor-node.service; then
        say "sensor-node runs"
        return
    fi
    if [[ ! $start ]]; then
        say "to start it:"
        say_command "sudo systemctl start sensor-node"
    elif cmp -s "$here/deploy/node.toml" "$config_folder/node.toml"; then
        say "Now name your broker and your sensors, for $config_folder/node.toml:"
        say_command "sudo sensor-node init"
    else
        if ! systemctl start sensor-node.service; then
            say "install.sh: it does not start; this says why:" >&2
            say_command "sudo journalctl -u sensor-node" >&2
            exit 1
        fi
        say "sensor-node runs; to follow it:"
        say_command "sudo journalctl -u sensor-node -f"
    fi
}

# -- the way back

take_away() {
    local unit group config folder
    local -a left=()
    for unit in "${unit_files[@]}"; do
        if [[ -e $units/$unit ]]; then
            systemctl disable --quiet --now "$unit" 2>/dev/null || true
            rm -f "$units/$unit"
        fi
    done
    rm -f "$devices/packages.conf"
    rmdir "$devices" 2>/dev/null || true
    systemctl stop 'sensor-node-alarm@*.service' 2>/dev/null || true
    systemctl daemon-reload
    systemctl reset-failed 'sensor-node*' 2>/dev/null || true
    # The data outlives the user's number, which may be given to another.
    for folder in "$config_folder" "$state"; do
        [[ -e $folder ]] || continue
        chown -R root:root "$folder"
        left+=("$folder")
    done
    if getent passwd "$user" >/dev/null; then userdel "$user"; fi
    if getent group "$user" >/dev/null; then groupdel "$user"; fi
    if [[ -e $root/made-groups ]]; then
        while read -r group; do
            if getent group "$group" >/dev/null; then groupdel "$group"; fi
        done <"$root/made-groups"
    fi
    config=$(boot_config)
    if [[ $config ]] && grep -qF "$mark_begin" "$config"; then
        # With the [all] before it: what follows it, somebody else has written since.
        awk -v from="$mark_begin" -v to="$mark_end" '
            $0 == from { skip = 1; held = 0; next }
            $0 == to { skip = 0; next }
            skip { next }
            held { print "[all]"; held = 0 }
            $0 == "[all]" { held = 1; next }
            { print }
            END { if (held) print "[all]" }' "$config" >"$config.new"
        replace "$config"
        say "off from the next boot: the buses that install.sh has switched on"
    fi
    if [[ $config ]]; then rm -f "$config.before-sensor-node"; fi
    if [[ -L $command_link ]]; then rm -f "$command_link"; fi
    rm -f "$sysusers" "$rules" "$bash_completions/sensor-node" "$zsh_completions/_sensor-node" \
        "$manuals/sensor-node.1"
    if command -v udevadm >/dev/null; then udevadm control --reload 2>/dev/null || true; fi
    rm -rf "$root"
    if ((${#left[@]})); then
        say "sensor-node is gone; your data is left: ${left[0]}${left[1]:+, ${left[1]}}"
    else
        say "sensor-node is gone"
    fi
}

main "$@"
