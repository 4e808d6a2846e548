import idna

print(idna.encode("münchen.example").decode())
