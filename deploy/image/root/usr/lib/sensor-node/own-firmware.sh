# Gives the kernel the radio's firmware that the owner has put into the folder firmware of the card.
#
# The kernel looks there first, under the names that it asks for; Raspberry Pi OS has the firmware of
# BCM43430/2 under another name. The driver asked before the card could be read, so it is loaded again.
set -eu
from=/boot/firmware/firmware
to=/run/sensor-node-firmware
mkdir -p "$to/brcm"
for file in "$from"/brcmfmac*; do
    name=${file##*/}
    case $name in
    brcmfmac43436-sdio.*) name=brcmfmac43430b0-sdio.${name#brcmfmac43436-sdio.} ;;
    esac
    cp "$file" "$to/brcm/$name"
done
printf %s "$to" >/sys/module/firmware_class/parameters/path
modprobe -r brcmfmac-wcc brcmfmac-cyw brcmfmac-bca brcmfmac || true
modprobe brcmfmac
