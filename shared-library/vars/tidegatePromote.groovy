import io.tidegate.Promote
import io.tidegate.Session

Map call(Map options = [:]) {
    return new Promote(Session.of(this, 'tidegatePromote', options)).run()
}
