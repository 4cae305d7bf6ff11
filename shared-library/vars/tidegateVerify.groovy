import io.tidegate.Verify
import io.tidegate.Session

Map call(Map options = [:]) {
    return new Verify(Session.of(this, 'tidegateVerify', options)).run()
}
