# Collects what wpa_supplicant and the kernel know of the Wi-Fi, for wifi.py, which may not ask them.
cd /run/sensor-node-status || exit
journalctl --boot --dmesg --output=cat --quiet --no-pager --lines=100 --grep=brcm >kernel
journalctl --boot --output=cat --quiet --no-pager --lines=200 --unit='sensor-node-wifi@*' >supplicant
: >devices
for phy in /sys/class/net/*/phy80211; do
    [ -e "$phy" ] || continue
    name=${phy%/phy80211}
    name=${name##*/}
    ! iw dev "$name" info | grep -q 'type AP$' || continue
    echo "$name" >>devices
    # wpa_supplicant has a /tmp of its own, so it could not answer to a socket there.
    wpa_cli -s /run/wpa_supplicant -i "$name" status >>status
    wpa_cli -s /run/wpa_supplicant -i "$name" scan_results >>scan
done 2>&1
exit 0
