# Keeps the owner's config.txt and cmdline.txt through an update of the kernel.
#
#   keep-config.sh save       before z50-raspi-firmware, which writes both files from the start
#   keep-config.sh restore    after it: the owner's files again, with the new names of kernel and
#                             first RAM disk
#
# It also names the newest kernel and first RAM disk as boot.cmd asks for them.
#
# If the power is cut in between, the Pi boots with raspi-firmware's files, and the next update
# restores the owner's.
set -eu
cd "${BOOT:-/boot/firmware}"
for file in config.txt cmdline.txt; do
    kept=$file.owner
    case $1 in
    save) [ -e "$kept" ] || [ ! -e "$file" ] || cp "$file" "$kept" ;;
    restore)
        [ -e "$kept" ] || continue
        kernel=$(sed -n 's/^kernel=\(vmlinuz-[^[:space:]]*\).*/\1/p' "$file" | tail -n 1)
        initrd=$(sed -n 's/^initramfs \(initrd.img-[^[:space:]]*\).*/\1/p' "$file" | tail -n 1)
        # Without a new name, as in cmdline.txt, the line stays as the owner has it.
        sed -e "${kernel:+s/^kernel=vmlinuz-[^[:space:]]*/kernel=$kernel/}" \
            -e "${initrd:+s/^initramfs initrd.img-[^[:space:]]*/initramfs $initrd/}" \
            "$kept" >"$file.new"
        sync "$file.new"
        mv "$file.new" "$file"
        rm "$kept"
        ;;
    esac
done
[ "$1" = restore ] || exit 0
cd "${KERNELS:-/boot}"
kernel=$(ls | sed -n 's/^vmlinuz-//p' | sort -V | tail -n 1)
for name in vmlinuz initrd.img; do
    [ -z "$kernel" ] || ln -sfn "$name-$kernel" "$name"
done
