# Writes down the id that systemd has made up at the first start, in memory: /etc is only read.
mountpoint -q /etc/machine-id || exit 0
mount -o remount,rw / || exit
systemd-machine-id-setup --commit
sync -f /
mount -o remount,ro /
