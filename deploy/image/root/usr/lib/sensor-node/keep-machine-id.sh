# Saves the id that systemd made in memory at the first start, because /etc is read-only.
mountpoint -q /etc/machine-id || exit 0
mount -o remount,rw / || exit
systemd-machine-id-setup --commit
sync -f /
mount -o remount,ro /
