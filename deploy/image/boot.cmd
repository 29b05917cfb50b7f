# Starts one of the two systems on the card. U-Boot runs it, as boot.scr on the FAT partition.
#
#   slot a is partition 2, slot b partition 4; in each, boot/vmlinuz and boot/initrd.img
#
# Which one is in the record of the slots, three sectors before the first partition (slots.py): a slot
# that is on trial, as long as it has tries left, which are counted here; else the one that is
# known to work; else, if that cannot be loaded, the other. Numbers of U-Boot are hexadecimal.

# The device tree comes from the Pi's firmware, with the overlays of config.txt and the words of
# cmdline.txt in it.
setenv tree ${fdt_addr}
fdt addr ${tree}
if test "${board}" = rpi; then
    # Debian's kernel is too large for the place that U-Boot has in mind, below the script; and the
    # device tree moves to where nothing is loaded onto it.
    setenv kernel_addr_r 0x08000000
    setenv ramdisk_addr_r 0x10000000
    setenv tree ${fdt_addr_r}
    fdt move ${fdt_addr} ${tree} 20000
fi
fdt get value words /chosen bootargs

setenv sector ${pxefile_addr_r}
setenv good
setenv trial
setenv tries

${devtype} dev ${devnum}
if ${devtype} read ${sector} 800 1; then env import -c ${sector} 200 good; fi
if test -z "${good}"; then
    if ${devtype} read ${sector} 1000 1; then env import -c ${sector} 200 good; fi
fi
if test -z "${good}"; then setenv good a; fi
if ${devtype} read ${sector} 1800 1; then env import -c ${sector} 200 trial tries; fi

setenv load_kernel 'load ${devtype} ${devnum}:${part} ${kernel_addr_r} boot/vmlinuz'
setenv load_ramdisk 'load ${devtype} ${devnum}:${part} ${ramdisk_addr_r} boot/initrd.img'
setenv boot 'booti ${kernel_addr_r} ${ramdisk_addr_r}:${filesize} ${tree}'
setenv which 'if test "${slot}" = b; then setenv part 4; else setenv part 2; fi'
setenv say 'echo "sensor-node: slot ${slot}${mark}, partition ${part}"'
setenv arguments 'setenv bootargs "${words} root=PARTUUID=@DISK@-0${part} sensor_node.slot=${slot}${mark}"'
setenv start 'run which say arguments; run load_kernel && run load_ramdisk && run boot'

if test -z "${tries}"; then setenv tries 0; fi
if itest ${tries} -gt 0; then
    setexpr tries ${tries} - 1
    mw.b ${sector} 0 200
    env export -c -s 200 ${sector} trial tries
    # A try that is not counted is not made: it might be made for ever.
    if ${devtype} write ${sector} 1800 1; then
        setenv slot ${trial}
        setenv mark " sensor_node.trial"
        run start
    fi
fi
setenv mark
setenv slot ${good}
run start
if test "${good}" = b; then setenv slot a; else setenv slot b; fi
run start
echo "sensor-node: no slot can be started"
sleep 5
reset
