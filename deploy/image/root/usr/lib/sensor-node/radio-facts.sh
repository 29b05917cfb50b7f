# Collects what wpa_supplicant and the kernel know of the Wi-Fi, for wifi.py, which may not ask them.
cd /run/sensor-node-status || exit
journalctl --boot --dmesg --output=cat --quiet --no-pager --lines=100 --grep=brcm >kernel
journalctl --boot --output=cat --quiet --no-pager --lines=200 --unit='sensor-node-wifi@*' >supplicant
: >devices
for phy in /sys/class/net/*/phy80211; do
    [ -e "$phy" ] || continue
    name=${phy%/phy80211}
    name=${name##*/}
    echo "$name" >>devices
    wpa_cli -i "$name" status >>status
    wpa_cli -i "$name" scan_results >>scan
done 2>&1
exit 0
